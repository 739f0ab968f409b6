#include "frontend/net/http.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include <sys/stat.h>

#include <arpa/inet.h>
#include <curl/curl.h>
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "policy/json/strict.h"
#include "policy/text/base64.h"
#include "protocol/base/unique_fd.h"

namespace postern::net {
namespace {

using Clock = std::chrono::steady_clock;

constexpr unsigned kMaxRedirects = 10;
constexpr unsigned kMaxChallenges = 3;  // a token that is refused is asked for again, not for ever
constexpr unsigned kTries = 3;          // of a transfer that makes no headway
constexpr unsigned kBusyTries = 5;      // of one that the server puts off (429, 503)
constexpr unsigned kMaxResumes = 200;
constexpr std::chrono::seconds kLongestWait{60};
constexpr std::size_t kMaxHeaderBytes = std::size_t{256} << 10;
constexpr std::size_t kMaxErrorBody = std::size_t{64} << 10;
constexpr std::size_t kMaxCertificates = std::size_t{16} << 20;
constexpr long kConnectSeconds = 20;
constexpr long kStallSeconds = 60;

std::string environment(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody changes it
  return value != nullptr ? value : "";
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return out;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const std::size_t first = text.find_first_not_of(kBlanks);
  return first == std::string_view::npos
             ? std::string_view{}
             : text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

struct FreeUrl {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};

using ParsedUrl = std::unique_ptr<CURLU, FreeUrl>;

std::string part_of(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK) {
    return {};
  }
  std::string out = text;
  curl_free(text);
  return out;
}

Outcome<ParsedUrl> parse_url(const std::string& text) {
  ParsedUrl url(curl_url());
  const std::string shown = "'" + text.substr(0, 200) + "'";
  if (url == nullptr || curl_url_set(url.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK) {
    return Problem{.what = shown + " is not a URL"};
  }
  const std::string scheme = part_of(url.get(), CURLUPART_SCHEME);
  if (scheme != "http" && scheme != "https") {
    return Problem{.what = shown + " is not an http or https address"};
  }
  return url;
}

struct FreeList {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

using HeaderList = std::unique_ptr<curl_slist, FreeList>;

struct FreeEasy {
  void operator()(CURL* handle) const { curl_easy_cleanup(handle); }
};

struct FreeMulti {
  void operator()(CURLM* handle) const { curl_multi_cleanup(handle); }
};

using Multi = std::unique_ptr<CURLM, FreeMulti>;

// What curl_global_init wants: once, before threads.
void start_library() {
  static const bool kStarted = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  (void)kStarted;
}

bool worth_another_try(CURLcode code) {
  constexpr std::array kTransient = {
      CURLE_COULDNT_RESOLVE_HOST, CURLE_COULDNT_CONNECT, CURLE_OPERATION_TIMEDOUT,
      CURLE_PARTIAL_FILE,         CURLE_RECV_ERROR,      CURLE_SEND_ERROR,
      CURLE_GOT_NOTHING,          CURLE_HTTP2,           CURLE_HTTP2_STREAM};
  return std::find(kTransient.begin(), kTransient.end(), code) != kTransient.end();
}

bool worth_another_try(long status) {
  constexpr std::array<long, 8> kTransient = {408, 429, 499, 500, 502, 503, 504, 522};
  return std::find(kTransient.begin(), kTransient.end(), status) != kTransient.end();
}

bool is_redirect(long status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

// Seconds or an HTTP date (RFC 9110 §10.2.3); nothing where it is neither.
std::optional<std::chrono::seconds> retry_after(const Answer& answer) {
  const std::string* value = answer.header("retry-after");
  if (value == nullptr || value->empty()) {
    return std::nullopt;
  }
  char* end = nullptr;
  const long seconds = std::strtol(value->c_str(), &end, 10);
  if (end != value->c_str() && *end == '\0') {
    return std::chrono::seconds(std::max(0L, seconds));
  }
  const std::time_t date = curl_getdate(value->c_str(), nullptr);
  if (date < 0) {
    return std::nullopt;
  }
  return std::chrono::seconds(std::max<std::time_t>(0, date - std::time(nullptr)));
}

std::string read_certificates(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  std::string out;
  std::array<char, 65536> piece;
  while (fd.valid() && out.size() < kMaxCertificates) {
    const ssize_t got = ::read(fd.get(), piece.data(), piece.size());
    if (got <= 0) {
      break;
    }
    out.append(piece.data(), static_cast<std::size_t>(got));
  }
  return out.empty() || out.ends_with('\n') ? out : out + '\n';
}

// The system's bundle: Debian and SUSE, Fedora and RHEL, Alpine.
std::string system_certificates() {
  for (const char* path : {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
                           "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"}) {
    if (std::string text = read_certificates(path); !text.empty()) {
      return text;
    }
  }
  return {};
}

// What the host's administrator or the user says about one registry's certificates, as Docker and
// containers/image have it (containers-certs.d(5)).
struct HostCertificates {
  std::string authorities;  // PEM
  std::string certificate;  // of this client: paths
  std::string key;
};

HostCertificates host_certificates(const std::string& host_and_port) {
  HostCertificates out;
  std::vector<std::string> places{"/etc/containers/certs.d/", "/etc/docker/certs.d/"};
  if (const std::string home = environment("HOME"); home.starts_with('/')) {
    places.insert(places.begin(), home + "/.config/containers/certs.d/");
  }
  for (const std::string& place : places) {
    const std::string directory = place + host_and_port;
    DIR* const open = ::opendir(directory.c_str());
    if (open == nullptr) {
      continue;
    }
    while (const dirent* entry = ::readdir(open)) {  // NOLINT(concurrency-mt-unsafe): own stream
      const std::string name(entry->d_name);
      const std::string path = directory + "/" + name;
      if (name.ends_with(".crt")) {
        out.authorities += read_certificates(path);
      } else if (name.ends_with(".cert")) {
        out.certificate = path;
        out.key = path.substr(0, path.size() - 5) + ".key";
      }
    }
    ::closedir(open);
    if (!out.authorities.empty() || !out.certificate.empty()) {
      return out;
    }
  }
  return out;
}

}  // namespace

const std::string* Answer::header(std::string_view name) const noexcept {
  const auto found = std::find_if(headers.begin(), headers.end(),
                                  [&](const Header& header) { return header.name == name; });
  return found == headers.end() ? nullptr : &found->value;
}

// ---- one transfer: from the request to the final answer, over redirects, challenges and cuts

class Client::Engine {
 public:
  explicit Engine(ClientOptions options) : options_(std::move(options)) { start_library(); }

  Outcome<std::vector<Answer>> run(std::span<const Request> requests, unsigned parallel);

 private:
  class Transfer;

  Outcome<> drive(CURLM* multi, std::deque<Transfer*>& waiting, unsigned parallel);
  Outcome<> take_messages(CURLM* multi,
                          std::vector<Transfer*>& running,
                          std::deque<Transfer*>& waiting);

  ClientOptions options_;
  std::vector<Multi> idle_;  // each with its open connections
};

class Client::Engine::Transfer {
 public:
  Transfer(const Request& request, const ClientOptions& options)
      : request_(&request),
        options_(&options),
        handle_(curl_easy_init()),
        url_(request.url),
        method_(request.method),
        authorization_(request.authorization) {}

  // Readies the handle for the next attempt.
  Outcome<> prepare();
  Outcome<> read_url();
  void make_headers();
  // Takes the end of an attempt. True: the answer is final; false: attempt another at `next()`.
  Outcome<bool> finish(CURLcode code);

  [[nodiscard]] CURL* handle() const { return handle_.get(); }

  [[nodiscard]] Clock::time_point next() const { return next_; }

  Answer take_answer() { return std::move(answer_); }

 private:
  static std::size_t on_body(char* bytes, std::size_t size, std::size_t count, void* self);
  static std::size_t on_header(char* bytes, std::size_t size, std::size_t count, void* self);
  static std::size_t on_read(char* bytes, std::size_t size, std::size_t count, void* self);
  static int on_seek(void* self, curl_off_t offset, int origin);
  static int on_progress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t);

  void set_request_body();
  Outcome<> set_tls();
  void set_proxy();
  Outcome<> take_body(std::span<const std::byte> bytes);
  Outcome<> begin_body();
  Outcome<bool> redirect(const std::string& location);
  Outcome<bool> try_again(std::optional<std::chrono::seconds> asked, bool busy, Problem problem);
  [[nodiscard]] Problem failure(CURLcode code) const;
  [[nodiscard]] std::string server() const;

  template <class Value>
  void set(CURLoption option, Value value) {
    curl_easy_setopt(handle_.get(), option, value);
  }

  const Request* request_;
  const ClientOptions* options_;
  std::unique_ptr<CURL, FreeEasy> handle_;
  HeaderList headers_;
  std::string url_;
  std::string method_;
  std::string authorization_;
  std::string authorities_;  // PEM, while the handle points to it
  Answer answer_;
  std::size_t header_bytes_ = 0;
  bool body_begun_ = false;
  bool to_sink_ = false;
  bool own_host_ = true;  // url_ is still the host that the request named
  std::uint64_t resumed_at_ = 0;
  std::uint64_t sent_ = 0;
  std::optional<Problem> problem_;  // found in a callback
  unsigned redirects_ = 0;
  unsigned challenges_ = 0;
  unsigned tries_ = 0;
  unsigned busy_ = 0;
  unsigned resumes_ = 0;
  std::uint64_t headway_ = 0;  // sink's position at the last failure
  Clock::time_point next_ = Clock::now();
};

std::string Client::Engine::Transfer::server() const {
  const auto origin = origin_of(url_);
  std::string out = origin ? *origin : url_;
  // The port that the scheme means anyway is noise.
  for (const std::string_view usual : {":443", ":80"}) {
    if (out.ends_with(usual) && (usual == ":443") == out.starts_with("https:")) {
      out.resize(out.size() - usual.size());
    }
  }
  return out;
}

Outcome<> Client::Engine::Transfer::read_url() {
  POSTERN_TRY_ASSIGN(ParsedUrl parsed, parse_url(url_));
  // As libcurl writes it: "HTTPS://" is https for every rule below.
  url_ = part_of(parsed.get(), CURLUPART_URL);
  // Credentials in a URL go the way of all others, so that redirects do not carry them on.
  if (const std::string user = part_of(parsed.get(), CURLUPART_USER, CURLU_URLDECODE);
      !user.empty()) {
    const std::string password = part_of(parsed.get(), CURLUPART_PASSWORD, CURLU_URLDECODE);
    curl_url_set(parsed.get(), CURLUPART_USER, nullptr, 0);
    curl_url_set(parsed.get(), CURLUPART_PASSWORD, nullptr, 0);
    url_ = part_of(parsed.get(), CURLUPART_URL);
    if (own_host_ && authorization_.empty()) {
      authorization_ = basic_authorization(user, password);
    }
  }
  return Ok{};
}

Outcome<> Client::Engine::Transfer::prepare() {
  if (handle_ == nullptr) {
    return Problem{.what = "libcurl cannot be started"};
  }
  POSTERN_TRY(read_url());
  curl_easy_reset(handle_.get());
  answer_ = Answer{.url = url_};
  header_bytes_ = 0;
  body_begun_ = to_sink_ = false;
  problem_.reset();
  resumed_at_ = request_->sink != nullptr ? request_->sink->position() : 0;
  make_headers();
  set(CURLOPT_HTTPHEADER, headers_.get());
  set(CURLOPT_URL, url_.c_str());
  set(CURLOPT_PRIVATE, this);
  set(CURLOPT_USERAGENT, "postern/" POSTERN_VERSION " (Linux)");
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_FOLLOWLOCATION, 0L);
  set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_2TLS));
  set(CURLOPT_PIPEWAIT, 1L);
  set(CURLOPT_BUFFERSIZE, 256L * 1024);
  set(CURLOPT_WRITEFUNCTION, on_body);
  set(CURLOPT_WRITEDATA, this);
  set(CURLOPT_HEADERFUNCTION, on_header);
  set(CURLOPT_HEADERDATA, this);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, on_progress);
  set(CURLOPT_XFERINFODATA, this);
  long stall = std::strtol(environment("POSTERN_HTTP_TIMEOUT").c_str(), nullptr, 10);
  stall = stall > 0 ? stall : kStallSeconds;
  set(CURLOPT_CONNECTTIMEOUT, std::min(stall, kConnectSeconds));
  set(CURLOPT_LOW_SPEED_LIMIT, 1L);
  set(CURLOPT_LOW_SPEED_TIME, stall);
  set(CURLOPT_TIMEOUT, static_cast<long>(request_->seconds));
  set_request_body();
  set_proxy();
  return set_tls();
}

void Client::Engine::Transfer::make_headers() {
  HeaderList list;
  const auto add = [&](const std::string& line) {
    // Null where memory is short; the list is as before then, and the server will refuse.
    if (curl_slist* longer = curl_slist_append(list.get(), line.c_str()); longer != nullptr) {
      (void)list.release();
      list.reset(longer);
    }
  };
  for (const Header& header : request_->headers) {
    add(header.name + ": " + header.value);
  }
  if (!authorization_.empty() && own_host_) {
    add("Authorization: " + authorization_);
  }
  if (resumed_at_ > 0) {
    add("Range: bytes=" + std::to_string(resumed_at_) + "-");
  }
  add("Expect:");  // no wait for "100 Continue", which half of all servers do not send
  headers_ = std::move(list);
}

void Client::Engine::Transfer::set_request_body() {
  sent_ = 0;
  if (method_ == "HEAD") {
    set(CURLOPT_NOBODY, 1L);
    return;
  }
  if (request_->file >= 0 && method_ == request_->method) {
    set(CURLOPT_UPLOAD, 1L);
    set(CURLOPT_READFUNCTION, on_read);
    set(CURLOPT_READDATA, this);
    set(CURLOPT_SEEKFUNCTION, on_seek);
    set(CURLOPT_SEEKDATA, this);
    set(CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request_->file_bytes));
  } else if (method_ == "POST" || method_ == "PUT" || method_ == "PATCH") {
    set(CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request_->body.size()));
    set(CURLOPT_POSTFIELDS, request_->body.data());
  }
  if (method_ != "GET") {
    set(CURLOPT_CUSTOMREQUEST, method_.c_str());
  }
}

Outcome<> Client::Engine::Transfer::set_tls() {
  if (!url_.starts_with("https:")) {
    return Ok{};
  }
  if (!options_->verify_tls) {
    set(CURLOPT_SSL_VERIFYPEER, 0L);
    set(CURLOPT_SSL_VERIFYHOST, 0L);
  }
  set(CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  const std::string file = environment("SSL_CERT_FILE");
  const std::string directory = environment("SSL_CERT_DIR");
  if (!file.empty()) {
    set(CURLOPT_CAINFO, file.c_str());
  }
  if (!directory.empty()) {
    set(CURLOPT_CAPATH, directory.c_str());
  }
  POSTERN_TRY_ASSIGN(const std::string origin, origin_of(url_));
  const std::string host_and_port = origin.substr(origin.find("://") + 3);
  HostCertificates own = host_certificates(host_and_port);
  if (own.authorities.empty() && own.certificate.empty() && host_and_port.ends_with(":443")) {
    own = host_certificates(host_and_port.substr(0, host_and_port.size() - 4));
  }
  if (!own.authorities.empty()) {
    authorities_ =
        own.authorities + (file.empty() ? system_certificates() : read_certificates(file));
    curl_blob blob{authorities_.data(), authorities_.size(), CURL_BLOB_NOCOPY};
    set(CURLOPT_CAINFO_BLOB, &blob);
  }
  if (!own.certificate.empty()) {
    set(CURLOPT_SSLCERT, own.certificate.c_str());
    set(CURLOPT_SSLKEY, own.key.c_str());
  }
  return Ok{};
}

// libcurl reads the other variables itself, but of this one the lower-case name only: under CGI a
// client sets the other. Nothing of CGI here means that it is the user's.
void Client::Engine::Transfer::set_proxy() {
  const std::string proxy = environment("HTTP_PROXY");
  if (url_.starts_with("http:") && !proxy.empty() && environment("http_proxy").empty() &&
      environment("REQUEST_METHOD").empty()) {
    set(CURLOPT_PROXY, proxy.c_str());
  }
}

std::size_t Client::Engine::Transfer::on_header(char* bytes,
                                                std::size_t size,
                                                std::size_t count,
                                                void* hook) {
  auto* self = static_cast<Transfer*>(hook);
  const std::string_view line(bytes, size * count);
  self->header_bytes_ += line.size();
  if (self->header_bytes_ > kMaxHeaderBytes) {
    self->problem_ = Problem{.what = self->server() + " sends headers without end"};
    return 0;
  }
  if (line.starts_with("HTTP/")) {  // of a proxy's CONNECT, or of a 1xx before the answer
    self->answer_.headers.clear();
    return line.size();
  }
  const std::size_t colon = line.find(':');
  if (colon != std::string_view::npos) {
    self->answer_.headers.push_back(
        {lower(trimmed(line.substr(0, colon))), std::string(trimmed(line.substr(colon + 1)))});
  }
  return line.size();
}

// Where a body goes is known with its first byte: status and headers are complete.
Outcome<> Client::Engine::Transfer::begin_body() {
  body_begun_ = true;
  curl_easy_getinfo(handle_.get(), CURLINFO_RESPONSE_CODE, &answer_.status);
  to_sink_ = request_->sink != nullptr && (answer_.status == 200 || answer_.status == 206);
  if (!to_sink_) {
    return Ok{};
  }
  if (answer_.status == 206) {
    const std::string* range = answer_.header("content-range");
    const std::string wanted = "bytes " + std::to_string(resumed_at_) + "-";
    if (range == nullptr || !lower(*range).starts_with(wanted)) {
      return Problem{.what =
                         server() + " answers with another part of the file than was asked for"};
    }
  } else if (resumed_at_ > 0) {
    POSTERN_TRY(request_->sink->restart());
    resumed_at_ = 0;
  }
  curl_off_t length = -1;
  curl_easy_getinfo(handle_.get(), CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
  const std::uint64_t expected = request_->sink->expected();
  if (length >= 0 && expected != kUnknownSize &&
      static_cast<std::uint64_t>(length) + resumed_at_ != expected) {
    return Problem{.what = server() + " announces " +
                           std::to_string(static_cast<std::uint64_t>(length) + resumed_at_) +
                           " bytes instead of " + std::to_string(expected),
                   .cure = "the server, or something between it and this machine, is broken"};
  }
  return Ok{};
}

Outcome<> Client::Engine::Transfer::take_body(std::span<const std::byte> bytes) {
  if (!body_begun_) {
    POSTERN_TRY(begin_body());
  }
  if (to_sink_) {
    return request_->sink->take(bytes);
  }
  const bool good = answer_.status >= 200 && answer_.status < 300;
  const std::size_t most = good ? request_->most : kMaxErrorBody;
  const std::size_t room = most - std::min(most, answer_.body.size());
  if (bytes.size() > room && good) {
    return Problem{.what = server() + " sends more than " + std::to_string(most) +
                           " bytes where a short answer is due"};
  }
  // SAFETY: bytes as text
  answer_.body.append(reinterpret_cast<const char*>(bytes.data()), std::min(bytes.size(), room));
  return Ok{};
}

std::size_t Client::Engine::Transfer::on_body(char* bytes,
                                              std::size_t size,
                                              std::size_t count,
                                              void* hook) {
  auto* self = static_cast<Transfer*>(hook);
  // SAFETY: text as bytes
  auto done = self->take_body({reinterpret_cast<const std::byte*>(bytes), size * count});
  if (!done) {
    self->problem_ = std::move(done).error();
    return 0;
  }
  return size * count;
}

std::size_t Client::Engine::Transfer::on_read(char* bytes,
                                              std::size_t size,
                                              std::size_t count,
                                              void* hook) {
  auto* self = static_cast<Transfer*>(hook);
  const Request& request = *self->request_;
  const std::size_t want = std::min<std::uint64_t>(
      size * count, request.file_bytes - std::min(request.file_bytes, self->sent_));
  const ssize_t got = want == 0 ? 0
                                : ::pread(request.file, bytes, want,
                                          static_cast<off_t>(request.file_offset + self->sent_));
  if (got < 0 || (got == 0 && want > 0)) {
    self->problem_ = got < 0 ? system_problem("reading what is sent", errno)
                             : Problem{.what = "the file became shorter while it was sent"};
    return CURL_READFUNC_ABORT;
  }
  self->sent_ += static_cast<std::uint64_t>(got);
  if (self->options_->sent && got > 0) {
    self->options_->sent(static_cast<std::uint64_t>(got));
  }
  return static_cast<std::size_t>(got);
}

int Client::Engine::Transfer::on_seek(void* hook, curl_off_t offset, int origin) {
  auto* self = static_cast<Transfer*>(hook);
  if (origin != SEEK_SET || offset < 0) {
    return CURL_SEEKFUNC_CANTSEEK;
  }
  self->sent_ = static_cast<std::uint64_t>(offset);
  return CURL_SEEKFUNC_OK;
}

int Client::Engine::Transfer::on_progress(
    void* hook, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  const auto* self = static_cast<const Transfer*>(hook);
  return self->options_->cancelled && self->options_->cancelled() ? 1 : 0;
}

Problem Client::Engine::Transfer::failure(CURLcode code) const {
  const std::string what = curl_easy_strerror(code);
  if (code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_COULDNT_CONNECT) {
    return Problem{.what = "cannot reach " + server() + ": " + what,
                   .cure = "check the name, and the network and proxy settings of this machine"};
  }
  if (code == CURLE_OPERATION_TIMEDOUT) {
    return Problem{.what = server() + " does not answer any more: " + what,
                   .cure = "try again later; POSTERN_HTTP_TIMEOUT sets the seconds to wait"};
  }
  if (code == CURLE_PEER_FAILED_VERIFICATION) {
    return Problem{.what = "the certificate of " + server() + " is not trusted: " + what,
                   .cure =
                       "install its authority's certificate (SSL_CERT_FILE names a bundle, or "
                       "/etc/containers/certs.d/HOST:PORT/ca.crt)"};
  }
  if (code == CURLE_SSL_CONNECT_ERROR) {
    return Problem{.what = server() + " does not speak TLS as it must: " + what,
                   .cure =
                       "if the server speaks plain HTTP and you trust the network, add "
                       "--no-https"};
  }
  return Problem{.what = server() + ": " + what};
}

Outcome<bool> Client::Engine::Transfer::redirect(const std::string& location) {
  if (++redirects_ > kMaxRedirects) {
    return Problem{.what = request_->url + " is redirected more than " +
                           std::to_string(kMaxRedirects) + " times"};
  }
  POSTERN_TRY_ASSIGN(std::string target, resolve_url(url_, location));
  POSTERN_TRY_ASSIGN(const std::string from, origin_of(request_->url));
  POSTERN_TRY_ASSIGN(const std::string to, origin_of(target));
  POSTERN_TRY_ASSIGN(const std::string old_host, host_of(request_->url));
  POSTERN_TRY_ASSIGN(const std::string new_host, host_of(target));
  if (url_.starts_with("https:") && target.starts_with("http:") && !options_->plain_redirects) {
    return Problem{.what = server() + " redirects from https to http: " + to,
                   .cure = "nothing is fetched over plain HTTP unless --no-https is given"};
  }
  if (is_private_address(new_host) && !is_private_address(old_host)) {
    return Problem{.what = server() + " redirects to an address of a private network: " + to};
  }
  if ((answer_.status == 303 && method_ != "HEAD") || (answer_.status < 303 && method_ == "POST")) {
    method_ = "GET";
  }
  url_ = std::move(target);
  // Credentials go no further than the host that they are for; and not back again either.
  own_host_ = own_host_ && from == to;
  next_ = Clock::now();
  return false;
}

Outcome<bool> Client::Engine::Transfer::try_again(std::optional<std::chrono::seconds> asked,
                                                  bool busy,
                                                  Problem problem) {
  const std::uint64_t position = request_->sink != nullptr ? request_->sink->position() : 0;
  if (position > headway_ && ++resumes_ < kMaxResumes) {
    tries_ = 0;
  }
  headway_ = position;
  const unsigned done = busy ? ++busy_ : ++tries_;
  if (!request_->retry || done >= (busy ? kBusyTries : kTries) ||
      (asked && *asked > kLongestWait)) {
    return problem;
  }
  // 1 s, 3 s, …; a busy server 2, 4, 8, … Some jitter, so that a job's ranks do not come together.
  const unsigned base = busy ? 1000U << done : (done == 1 ? 1000U : 3000U);
  static thread_local std::minstd_rand random(std::random_device{}());
  auto wait = std::chrono::milliseconds(base + random() % (base / 5));
  if (asked) {
    wait = *asked;
  }
  if (position > 0 && tries_ == 1 && !busy) {
    wait = std::chrono::milliseconds(200);  // a cut in the middle: the server is there
  }
  next_ = Clock::now() + std::min<std::chrono::milliseconds>(wait, kLongestWait);
  message::debug(problem.what + "; trying again in " + std::to_string(wait.count()) + " ms");
  return false;
}

Outcome<bool> Client::Engine::Transfer::finish(CURLcode code) {
  if (problem_) {
    return *std::move(problem_);
  }
  if (options_->cancelled && options_->cancelled()) {
    return Problem{.what = "interrupted"};
  }
  curl_easy_getinfo(handle_.get(), CURLINFO_RESPONSE_CODE, &answer_.status);
  if (code != CURLE_OK) {
    Problem problem = failure(code);
    return worth_another_try(code) ? try_again(std::nullopt, false, std::move(problem))
                                   : Outcome<bool>(std::move(problem));
  }
  const std::string* location = answer_.header("location");
  if (is_redirect(answer_.status) && location != nullptr) {
    return redirect(*location);
  }
  if (answer_.status == 401 && own_host_ && request_->challenge && challenges_++ < kMaxChallenges) {
    POSTERN_TRY_ASSIGN(std::string next, request_->challenge(answer_));
    if (!next.empty()) {
      authorization_ = std::move(next);
      next_ = Clock::now();
      return false;
    }
  }
  if (worth_another_try(answer_.status)) {
    const bool busy = answer_.status == 429 || answer_.status == 503;
    auto again = try_again(retry_after(answer_), busy, Problem{});
    return again ? again : Outcome<bool>(true);  // the last answer stands
  }
  if (to_sink_ || (request_->sink != nullptr && (answer_.status == 200 || answer_.status == 206))) {
    const std::uint64_t expected = request_->sink->expected();
    if (expected != kUnknownSize && request_->sink->position() < expected) {
      return try_again(
          std::nullopt, false,
          Problem{.what = server() + " ends after " + std::to_string(request_->sink->position()) +
                          " of " + std::to_string(expected) + " bytes"});
    }
  }
  return true;
}

// ---- several transfers

Outcome<> Client::Engine::take_messages(CURLM* multi,
                                        std::vector<Transfer*>& running,
                                        std::deque<Transfer*>& waiting) {
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(multi, &left)) {
    if (message->msg != CURLMSG_DONE) {
      continue;
    }
    Transfer* transfer = nullptr;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
    const CURLcode code = message->data.result;
    curl_multi_remove_handle(multi, transfer->handle());
    running.erase(std::find(running.begin(), running.end(), transfer));
    POSTERN_TRY_ASSIGN(const bool done, transfer->finish(code));
    if (!done) {
      waiting.push_back(transfer);
    }
  }
  return Ok{};
}

Outcome<> Client::Engine::drive(CURLM* multi, std::deque<Transfer*>& waiting, unsigned parallel) {
  std::vector<Transfer*> running;

  // What still runs when this ends is taken out of the multi handle, which is used again.
  struct Remover {
    CURLM* multi;
    std::vector<Transfer*>* running;

    ~Remover() {
      for (const Transfer* transfer : *running) {
        curl_multi_remove_handle(multi, transfer->handle());
      }
    }
  } const remover{multi, &running};

  while (!waiting.empty() || !running.empty()) {
    if (options_.cancelled && options_.cancelled()) {
      return Problem{.what = "interrupted"};
    }
    const auto now = Clock::now();
    auto wake = now + std::chrono::milliseconds(200);
    for (std::size_t count = waiting.size(); count > 0 && running.size() < parallel; --count) {
      Transfer* transfer = waiting.front();
      waiting.pop_front();
      if (transfer->next() > now) {
        wake = std::min(wake, transfer->next());
        waiting.push_back(transfer);
        continue;
      }
      POSTERN_TRY(transfer->prepare());
      curl_multi_add_handle(multi, transfer->handle());
      running.push_back(transfer);
    }
    int active = 0;
    if (const CURLMcode code = curl_multi_perform(multi, &active); code != CURLM_OK) {
      return Problem{.what = std::string("libcurl: ") + curl_multi_strerror(code)};
    }
    POSTERN_TRY(take_messages(multi, running, waiting));
    const auto pause = std::chrono::duration_cast<std::chrono::milliseconds>(wake - Clock::now());
    if (!running.empty() || !waiting.empty()) {
      const bool ready = std::any_of(waiting.begin(), waiting.end(), [](const Transfer* transfer) {
        return transfer->next() <= Clock::now();
      });
      const bool may_start = ready && running.size() < parallel;
      const auto wait = may_start ? 0 : std::max<std::int64_t>(1, pause.count());
      curl_multi_poll(multi, nullptr, 0, static_cast<int>(wait), nullptr);
    }
  }
  return Ok{};
}

Outcome<std::vector<Answer>> Client::Engine::run(std::span<const Request> requests,
                                                 unsigned parallel) {
  // A challenge may ask this client for a token while this runs: then another multi handle is used.
  Multi multi;
  if (idle_.empty()) {
    multi.reset(curl_multi_init());
  } else {
    multi = std::move(idle_.back());
    idle_.pop_back();
  }
  if (multi == nullptr) {
    return Problem{.what = "libcurl cannot be started"};
  }
  curl_multi_setopt(multi.get(), CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX);
  std::vector<std::unique_ptr<Transfer>> transfers;
  std::deque<Transfer*> waiting;
  for (const Request& request : requests) {
    transfers.push_back(std::make_unique<Transfer>(request, options_));
    waiting.push_back(transfers.back().get());
  }
  auto done = drive(multi.get(), waiting, parallel);
  idle_.push_back(std::move(multi));
  if (!done) {
    return std::move(done).error();
  }
  std::vector<Answer> answers;
  answers.reserve(transfers.size());
  for (const auto& transfer : transfers) {
    answers.push_back(transfer->take_answer());
  }
  return answers;
}

Client::Client(ClientOptions options) : engine_(std::make_unique<Engine>(std::move(options))) {}

Client::~Client() = default;
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;

Outcome<Answer> Client::perform(const Request& request) {
  POSTERN_TRY_ASSIGN(std::vector<Answer> answers, engine_->run({&request, 1}, 1));
  return std::move(answers.front());
}

Outcome<std::vector<Answer>> Client::perform_all(std::span<const Request> requests,
                                                 unsigned parallel) {
  return engine_->run(requests, parallel);
}

// ---- URLs

Outcome<std::string> origin_of(const std::string& url) {
  POSTERN_TRY_ASSIGN(const ParsedUrl parsed, parse_url(url));
  return part_of(parsed.get(), CURLUPART_SCHEME) + "://" +
         lower(part_of(parsed.get(), CURLUPART_HOST)) + ":" +
         part_of(parsed.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT);
}

Outcome<std::string> host_of(const std::string& url) {
  POSTERN_TRY_ASSIGN(const ParsedUrl parsed, parse_url(url));
  std::string host = lower(part_of(parsed.get(), CURLUPART_HOST));
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  }
  return host;
}

Outcome<std::string> resolve_url(const std::string& base, const std::string& reference) {
  POSTERN_TRY_ASSIGN(const ParsedUrl parsed, parse_url(base));
  if (curl_url_set(parsed.get(), CURLUPART_URL, reference.c_str(), 0) != CURLUE_OK) {
    return Problem{.what = base + " leads to something that is not a URL"};
  }
  const std::string out = part_of(parsed.get(), CURLUPART_URL);
  POSTERN_TRY(parse_url(out));
  return out;
}

bool is_loopback(std::string_view host) {
  const std::string text(host);
  in_addr v4{};
  in6_addr v6{};
  if (::inet_pton(AF_INET, text.c_str(), &v4) == 1) {
    return (ntohl(v4.s_addr) >> 24) == 127;
  }
  if (::inet_pton(AF_INET6, text.c_str(), &v6) == 1) {
    return IN6_IS_ADDR_LOOPBACK(&v6);
  }
  return text == "localhost" || text.ends_with(".localhost");
}

bool is_private_address(std::string_view host) {
  if (is_loopback(host)) {
    return true;
  }
  const std::string text(host);
  in_addr v4{};
  in6_addr v6{};
  const auto is_private_v4 = [](std::uint32_t address) {
    return (address >> 24) == 10 || (address >> 24) == 127 || (address >> 20) == 0xac1 ||
           (address >> 16) == 0xc0a8 || (address >> 16) == 0xa9fe || (address >> 24) == 0;
  };
  if (::inet_pton(AF_INET, text.c_str(), &v4) == 1) {
    return is_private_v4(ntohl(v4.s_addr));
  }
  if (::inet_pton(AF_INET6, text.c_str(), &v6) == 1) {
    const std::uint8_t* const byte = v6.s6_addr;
    if (IN6_IS_ADDR_V4MAPPED(&v6)) {
      return is_private_v4(std::uint32_t{byte[12]} << 24 | std::uint32_t{byte[13]} << 16 |
                           std::uint32_t{byte[14]} << 8 | byte[15]);
    }
    return IN6_IS_ADDR_LINKLOCAL(&v6) || IN6_IS_ADDR_UNSPECIFIED(&v6) || (byte[0] & 0xfe) == 0xfc;
  }
  return false;
}

std::string basic_authorization(std::string_view user, std::string_view password) {
  const std::string text = std::string(user) + ':' + std::string(password);
  // SAFETY: text as bytes
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  return "Basic " + postern::text::encode_base64({bytes, text.size()});
}

// ---- errors

namespace {

// {"errors":[{"code","message"}]} of registries, {"error":{"message"}} of libraries,
// {"details":"…"} of token servers.
std::string said_by_server(const std::string& body) {
  const auto document = json::parse(body);
  if (!document) {
    return {};
  }
  using Kind = json::Value::Kind;
  if (const json::Value* errors = document->find("errors", Kind::kArray);
      errors != nullptr && !errors->items.empty()) {
    const json::Value& first = errors->items.front();
    const json::Value* code = first.find("code", Kind::kString);
    const json::Value* message = first.find("message", Kind::kString);
    return (code != nullptr ? code->text : "") +
           (code != nullptr && message != nullptr ? ": " : "") +
           (message != nullptr ? message->text : "");
  }
  if (const json::Value* error = document->find("error", Kind::kObject); error != nullptr) {
    const json::Value* message = error->find("message", Kind::kString);
    return message != nullptr ? message->text : "";
  }
  const json::Value* details = document->find("details", Kind::kString);
  return details != nullptr ? details->text : "";
}

}  // namespace

Problem unexpected_answer(const std::string& what, const Answer& answer) {
  constexpr std::size_t kMostText = 300;
  std::string said = said_by_server(answer.body).substr(0, kMostText);
  Problem out{.what = what + ": HTTP status " + std::to_string(answer.status)};
  if (!said.empty()) {
    out.what += ": " + said;
  }
  if (answer.status == 429 || lower(said).starts_with("toomanyrequests")) {
    out.cure = "the server limits how often it is asked: wait, or log in (postern registry login)";
  } else if (answer.status == 401 || answer.status == 403) {
    out.cure = "log in (postern registry login), or check that this account may do that";
  } else if (answer.status >= 500) {
    out.cure = "the server has a problem of its own: try again later";
  }
  return out;
}

}  // namespace postern::net
