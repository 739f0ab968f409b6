#include "frontend/keys/hkp.h"

#include <algorithm>
#include <charconv>
#include <memory>
#include <optional>

#include <curl/curl.h>
#include <dlfcn.h>

#include "protocol/exit_codes.h"

namespace postern::keys {
namespace {

constexpr std::size_t kMaxAnswerBytes = std::size_t{16} << 20;
constexpr int kMaxPages = 64;

Problem network_problem(std::string what, std::string cure = {}) {
  return Problem{std::move(what), std::move(cure), kExitKeyOrTransfer};
}

struct Answer {
  long status = 0;
  std::string body;
  std::string next_page;  // X-HKP-Next-Page-Token
};

std::size_t take_body(char* bytes, std::size_t size, std::size_t count, void* hook) {
  auto* answer = static_cast<Answer*>(hook);
  if (answer->body.size() + size * count > kMaxAnswerBytes) {
    return 0;  // ends the transfer with an error
  }
  answer->body.append(bytes, size * count);
  return size * count;
}

std::size_t take_header(char* bytes, std::size_t size, std::size_t count, void* hook) {
  auto* answer = static_cast<Answer*>(hook);
  const std::string_view line(bytes, size * count);
  constexpr std::string_view kName = "x-hkp-next-page-token:";
  const auto same = [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a - 'A' + 'a' : a) == b; };
  if (line.size() > kName.size() && std::equal(kName.begin(), kName.end(), line.begin(),
                                               [&](char b, char a) { return same(a, b); })) {
    std::string_view value = line.substr(kName.size());
    value.remove_prefix(std::min(value.find_first_not_of(" \t"), value.size()));
    answer->next_page = value.substr(0, value.find_last_not_of(" \t\r\n") + 1);
  }
  return size * count;
}

// libcurl, loaded with the first transfer: it brings thirty libraries, and every signature that is
// checked, at each start under an execution control list, would wait for them.
struct Curl {
  decltype(&curl_easy_init) init;
  decltype(&curl_easy_setopt) setopt;
  decltype(&curl_easy_perform) perform;
  decltype(&curl_easy_getinfo) getinfo;
  decltype(&curl_easy_cleanup) cleanup;
  decltype(&curl_easy_escape) escape;
  decltype(&curl_easy_strerror) strerror;
  decltype(&curl_free) free;
  decltype(&curl_slist_append) append;
  decltype(&curl_slist_free_all) free_all;

  // Null where it is not installed. It stays loaded.
  static const Curl* get() {
    static const std::optional<Curl> curl = load();
    return curl ? &*curl : nullptr;
  }

 private:
  template <class Function>
  static bool find(void* library, const char* name, Function*& function) {
    // SAFETY: POSIX lets a symbol's address be a function's (dlsym(3)).
    function = reinterpret_cast<Function*>(::dlsym(library, name));
    return function != nullptr;
  }

  static std::optional<Curl> load() {
    void* const library = ::dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    Curl out{};
    const bool found = library != nullptr && find(library, "curl_easy_init", out.init) &&
                       find(library, "curl_easy_setopt", out.setopt) &&
                       find(library, "curl_easy_perform", out.perform) &&
                       find(library, "curl_easy_getinfo", out.getinfo) &&
                       find(library, "curl_easy_cleanup", out.cleanup) &&
                       find(library, "curl_easy_escape", out.escape) &&
                       find(library, "curl_easy_strerror", out.strerror) &&
                       find(library, "curl_free", out.free) &&
                       find(library, "curl_slist_append", out.append) &&
                       find(library, "curl_slist_free_all", out.free_all);
    return found ? std::optional(out) : std::nullopt;
  }
};

// One transfer; the handle and what it points to are gone afterwards.
class Transfer {
 public:
  Transfer() : curl_(Curl::get()), handle_(curl_ != nullptr ? curl_->init() : nullptr) {}

  template <class Value>
  void set(CURLoption option, Value value) {
    if (handle_ != nullptr) {
      curl_->setopt(handle_.get(), option, value);
    }
  }

  void add_header(const std::string& line) {
    if (handle_ == nullptr) {
      return;
    }
    // The list is extended in place; null where memory is short, and then it is as before.
    if (curl_slist* longer = curl_->append(headers_.get(), line.c_str());
        longer != headers_.get() && longer != nullptr) {
      headers_.reset(longer);
    }
  }

  std::string escape(const std::string& text) {
    if (handle_ == nullptr) {
      return {};
    }
    char* escaped = curl_->escape(handle_.get(), text.data(), static_cast<int>(text.size()));
    std::string out = escaped != nullptr ? escaped : "";
    curl_->free(escaped);
    return out;
  }

  Outcome<Answer> run(const std::string& url, unsigned timeout) {
    if (curl_ == nullptr) {
      return network_problem("libcurl is not installed, so key servers cannot be asked",
                             "install the package 'libcurl4' (Debian) or 'libcurl' (Fedora, RHEL)");
    }
    if (handle_ == nullptr) {
      return network_problem("libcurl cannot be started");
    }
    Answer answer;
    set(CURLOPT_URL, url.c_str());
    set(CURLOPT_HTTPHEADER, headers_.get());
    set(CURLOPT_WRITEFUNCTION, take_body);
    set(CURLOPT_WRITEDATA, &answer);
    set(CURLOPT_HEADERFUNCTION, take_header);
    set(CURLOPT_HEADERDATA, &answer);
    set(CURLOPT_USERAGENT, "postern");
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_FOLLOWLOCATION, 1L);
    set(CURLOPT_MAXREDIRS, 5L);
    // A server must not send us on to file:// or from TLS to plain text.
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_REDIR_PROTOCOLS_STR, url.starts_with("https:") ? "https" : "http,https");
    set(CURLOPT_CONNECTTIMEOUT, static_cast<long>(std::min(timeout, 10U)));
    set(CURLOPT_TIMEOUT, static_cast<long>(timeout));
    const CURLcode code = curl_->perform(handle_.get());
    if (code != CURLE_OK) {
      return failure(code, url);
    }
    curl_->getinfo(handle_.get(), CURLINFO_RESPONSE_CODE, &answer.status);
    return answer;
  }

 private:
  [[nodiscard]] Problem failure(CURLcode code, const std::string& url) const {
    const std::string server = url.substr(0, url.find('/', url.find("://") + 3));
    if (code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_COULDNT_CONNECT ||
        code == CURLE_OPERATION_TIMEDOUT) {
      return network_problem("cannot reach " + server + ": " + curl_->strerror(code),
                             "check the network connection, or name another server with --url");
    }
    if (code == CURLE_WRITE_ERROR) {
      return network_problem(server + " sent more than " + std::to_string(kMaxAnswerBytes) +
                             " bytes");
    }
    return network_problem(server + ": " + curl_->strerror(code));
  }

  struct FreeHandle {
    void operator()(CURL* handle) const { Curl::get()->cleanup(handle); }
  };

  struct FreeList {
    void operator()(curl_slist* list) const { Curl::get()->free_all(list); }
  };

  const Curl* curl_;
  std::unique_ptr<CURL, FreeHandle> handle_;
  std::unique_ptr<curl_slist, FreeList> headers_;
};

bool is_private_address(const std::string& address) {
  const std::string host = address.substr(address.find("://") + 3);
  return address.starts_with("https:") || host.starts_with("localhost") ||
         host.starts_with("127.") || host.starts_with("[::1]");
}

Outcome<Transfer> start(const ServerOptions& server, const std::string& address) {
  Transfer out;
  if (!server.token.empty() && is_private_address(address)) {
    out.add_header("Authorization: BEARER " + server.token);
  }
  return out;
}

Outcome<Ok> check_status(const Answer& answer,
                         const std::string& address,
                         const std::string& subject) {
  if (answer.status >= 200 && answer.status < 300) {
    return Ok{};
  }
  switch (answer.status) {
    case 404:
      return network_problem(address + " has no " + subject);
    case 401:
      return network_problem(address + " wants an access token, or does not accept the one given");
    default:
      return network_problem(address + " answered with HTTP status " +
                             std::to_string(answer.status));
  }
}

std::string unescape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    const char* digits = text.data() + i + 1;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(digits, digits + 2, value, 16).ptr == digits + 2) {
      out += static_cast<char>(value);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

template <class Number>
Number number_of(std::string_view text) {
  Number out = 0;
  std::from_chars(text.data(), text.data() + text.size(), out);
  return out;
}

std::vector<std::string_view> fields_of(std::string_view line) {
  std::vector<std::string_view> out;
  while (true) {
    const std::size_t colon = line.find(':');
    out.push_back(line.substr(0, colon));
    if (colon == std::string_view::npos) {
      return out;
    }
    line.remove_prefix(colon + 1);
  }
}

}  // namespace

Outcome<std::string> server_address(const std::string& url) {
  const std::size_t separator = url.find("://");
  if (separator == std::string::npos) {
    return network_problem("'" + url + "' is not the address of a key server",
                           "write it as hkps://HOST or https://HOST");
  }
  const std::string scheme = url.substr(0, separator);
  std::string host = url.substr(separator + 3);
  host = host.substr(0, host.find_first_of("/?#"));
  const bool plain = scheme == "hkp" || scheme == "http";
  if (host.empty() || (!plain && scheme != "hkps" && scheme != "https")) {
    return network_problem("'" + url + "' is not the address of a key server",
                           "write it as hkps://HOST or https://HOST");
  }
  const std::size_t bracket = host.rfind(']');
  const bool has_port =
      host.find(':', bracket == std::string::npos ? 0 : bracket) != std::string::npos;
  if (scheme == "hkp" && !has_port) {
    host += ":11371";
  }
  return (plain ? "http://" : "https://") + host;
}

Outcome<std::string> fetch_key(const ServerOptions& server, const std::string& search) {
  POSTERN_TRY_ASSIGN(const std::string address, server_address(server.url));
  POSTERN_TRY_ASSIGN(Transfer transfer, start(server, address));
  const std::string url =
      address + "/pks/lookup?op=get&options=mr&exact=on&search=" + transfer.escape(search);
  POSTERN_TRY_ASSIGN(Answer answer, transfer.run(url, server.timeout_seconds));
  POSTERN_TRY(check_status(answer, address, "key " + search));
  return std::move(answer.body);
}

Outcome<std::vector<FoundKey>> search_keys(const ServerOptions& server, const std::string& text) {
  POSTERN_TRY_ASSIGN(const std::string address, server_address(server.url));
  std::vector<FoundKey> out;
  std::string page;
  for (int pages = 0; pages < kMaxPages; ++pages) {
    POSTERN_TRY_ASSIGN(Transfer transfer, start(server, address));
    std::string url = address +
                      "/pks/lookup?op=index&options=mr&fingerprint=on&x-pagesize=256&search=" +
                      transfer.escape(text);
    if (!page.empty()) {
      url += "&x-pagetoken=" + transfer.escape(page);
    }
    POSTERN_TRY_ASSIGN(const Answer answer, transfer.run(url, server.timeout_seconds));
    POSTERN_TRY(check_status(answer, address, "key that matches '" + text + "'"));
    std::vector<FoundKey> more = parse_index(answer.body);
    out.insert(out.end(), std::make_move_iterator(more.begin()),
               std::make_move_iterator(more.end()));
    page = answer.next_page;
    if (page.empty()) {
      break;
    }
  }
  return out;
}

Outcome<> push_key(const ServerOptions& server, const std::string& armored) {
  POSTERN_TRY_ASSIGN(const std::string address, server_address(server.url));
  POSTERN_TRY_ASSIGN(Transfer transfer, start(server, address));
  const std::string form = "keytext=" + transfer.escape(armored);
  transfer.set(CURLOPT_POSTFIELDSIZE, static_cast<long>(form.size()));
  transfer.set(CURLOPT_POSTFIELDS, form.c_str());
  POSTERN_TRY_ASSIGN(const Answer answer,
                     transfer.run(address + "/pks/add", server.timeout_seconds));
  return check_status(answer, address, "place for keys (/pks/add)");
}

Outcome<std::string> post(const std::string& url,
                          const std::string& content_type,
                          const std::string& body,
                          unsigned timeout_seconds) {
  if (!url.starts_with("http://") && !url.starts_with("https://")) {
    return network_problem("'" + url + "' is not an HTTP address");
  }
  Transfer transfer;
  transfer.add_header("Content-Type: " + content_type);
  transfer.set(CURLOPT_POSTFIELDSIZE, static_cast<long>(body.size()));
  transfer.set(CURLOPT_POSTFIELDS, body.data());
  POSTERN_TRY_ASSIGN(Answer answer, transfer.run(url, timeout_seconds));
  POSTERN_TRY(check_status(answer, url, "answer"));
  return std::move(answer.body);
}

std::vector<FoundKey> parse_index(std::string_view text) {
  std::vector<FoundKey> out;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    line = line.substr(0, line.find_last_not_of("\r ") + 1);
    const std::vector<std::string_view> fields = fields_of(line);
    const auto field = [&](std::size_t n) {
      return n < fields.size() ? fields[n] : std::string_view();
    };
    if (field(0) == "pub" && !field(1).empty()) {
      FoundKey key;
      key.fingerprint = field(1);
      key.algorithm = number_of<int>(field(2));
      key.bits = number_of<unsigned>(field(3));
      key.created = number_of<std::int64_t>(field(4));
      key.expires = number_of<std::int64_t>(field(5));
      key.flags = field(6);
      out.push_back(std::move(key));
    } else if (field(0) == "uid" && !out.empty()) {
      out.back().users.push_back(unescape(field(1)));
    }
  }
  return out;
}

}  // namespace postern::keys
