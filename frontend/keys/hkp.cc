#include "frontend/keys/hkp.h"

#include <algorithm>
#include <cerrno>
#include <charconv>

#include <sys/mman.h>

#include <arpa/inet.h>
#include <unistd.h>

#include "frontend/system/libexec.h"
#include "frontend/system/spawn.h"
#include "policy/text/percent.h"
#include "policy/text/split.h"
#include "protocol/base/unique_fd.h"
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

struct Request {
  std::string method = "GET";
  std::string url = {};
  unsigned seconds = 0;
  std::string authorization = {};
  std::string content_type = {};
  std::string body = {};
};

// A file in memory, read from its start by the program that gets it as standard input: what is in
// it stands in no list of arguments.
Outcome<UniqueFd> input_of(const std::string& text) {
  UniqueFd fd(::memfd_create("request", MFD_CLOEXEC));
  if (!fd.valid() ||
      ::pwrite(fd.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    return system_problem("asking a key server", errno);
  }
  return fd;
}

// "ok STATUS PAGE" and the body, or "error", what and cure: see postern-transfer's `request`.
Outcome<Answer> parse_answer(std::string_view text) {
  const std::size_t end = text.find('\n');
  const std::string_view line = text.substr(0, end);
  if (line.starts_with("error\t")) {
    const std::size_t tab = line.find('\t', 6);
    return network_problem(std::string(line.substr(6, tab - 6)),
                           tab == std::string_view::npos ? "" : std::string(line.substr(tab + 1)));
  }
  Answer out;
  const char* const from = line.data() + std::min<std::size_t>(3, line.size());
  const auto [stop, error] = std::from_chars(from, line.data() + line.size(), out.status);
  if (!line.starts_with("ok ") || error != std::errc() || end == std::string_view::npos) {
    return network_problem("postern-transfer did not say what the server answers",
                           "install postern whole: its programs must be of one version");
  }
  const auto used = static_cast<std::size_t>(stop - line.data());
  out.next_page = line.substr(std::min(used + 1, line.size()));
  out.body = text.substr(end + 1);
  return out;
}

// libcurl brings thirty libraries, and every signature that is checked, at each start under an
// execution control list, would wait for them: another program asks.
Outcome<Answer> ask(const Request& request) {
  const std::string program = system::libexec_program("postern-transfer");
  POSTERN_TRY_ASSIGN(
      const UniqueFd input,
      input_of(request.method + " " + request.url + "\n" + std::to_string(request.seconds) + "\n" +
               request.authorization + "\n" + request.content_type + "\n" + request.body));
  const auto done =
      system::run_and_read({.program = program,
                            .words = {"postern-transfer", "request"},
                            .passed = {{.descriptor = input.get(), .number = STDIN_FILENO}}},
                           kMaxAnswerBytes);
  if (!done) {
    return network_problem(system_problem("starting " + program, done.error().err).what,
                           "key servers are asked by it: install it beside postern-keys");
  }
  return parse_answer(done->output);
}

// Whether a secret may go there: over TLS, or to this machine itself ("127.example.org" is
// another).
bool may_have_secrets(const std::string& address) {
  const std::string host_and_port = address.substr(address.find("://") + 3);
  const std::string host = host_and_port.ends_with(']')
                               ? host_and_port  // IPv6 without a port
                               : host_and_port.substr(0, host_and_port.rfind(':'));
  in_addr v4{};
  const bool loopback =
      host == "localhost" || host == "[::1]" ||
      (::inet_pton(AF_INET, host.c_str(), &v4) == 1 && (ntohl(v4.s_addr) >> 24) == IN_LOOPBACKNET);
  return address.starts_with("https:") || loopback;
}

Request to(const ServerOptions& server, const std::string& address, const std::string& path) {
  Request out{.url = address + path, .seconds = server.timeout_seconds};
  if (may_have_secrets(address)) {
    out.authorization = server.authorization;
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

Outcome<std::vector<ServerOptions>> configured_servers() {
  constexpr std::size_t kMostBytes = std::size_t{1} << 20;
  const std::string program = system::libexec_program("postern-transfer");
  const auto done = system::run_and_read(
      {.program = program, .words = {"postern-transfer", "key-servers"}}, kMostBytes);
  if (!done) {
    return network_problem(system_problem("starting " + program, done.error().err).what,
                           "key servers are asked by it: install it beside postern-keys");
  }
  std::vector<ServerOptions> out;
  for (std::string_view rest = done->output; !rest.empty();) {
    const std::string_view line = text::next_line(rest);
    const std::size_t tab = line.find('\t');
    if (tab != std::string_view::npos) {
      out.push_back({.url = std::string(line.substr(0, tab)),
                     .authorization = std::string(line.substr(tab + 1))});
    }
  }
  if (out.empty()) {
    return network_problem("no key server is configured", "name one with --url");
  }
  return out;
}

Outcome<std::string> fetch_key(const ServerOptions& server, const std::string& search) {
  POSTERN_TRY_ASSIGN(const std::string address, server_address(server.url));
  POSTERN_TRY_ASSIGN(Answer answer, ask(to(server, address,
                                           "/pks/lookup?op=get&options=mr&exact=on&search=" +
                                               text::percent_encode(search))));
  POSTERN_TRY(check_status(answer, address, "key " + search));
  return std::move(answer.body);
}

Outcome<std::vector<FoundKey>> search_keys(const ServerOptions& server, const std::string& text) {
  POSTERN_TRY_ASSIGN(const std::string address, server_address(server.url));
  std::vector<FoundKey> out;
  std::string page;
  for (int pages = 0; pages < kMaxPages; ++pages) {
    std::string path = "/pks/lookup?op=index&options=mr&fingerprint=on&x-pagesize=256&search=" +
                       text::percent_encode(text);
    if (!page.empty()) {
      path += "&x-pagetoken=" + text::percent_encode(page);
    }
    POSTERN_TRY_ASSIGN(const Answer answer, ask(to(server, address, path)));
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
  Request request = to(server, address, "/pks/add");
  request.method = "POST";
  request.content_type = "application/x-www-form-urlencoded";
  request.body = "keytext=" + text::percent_encode(armored);
  POSTERN_TRY_ASSIGN(const Answer answer, ask(request));
  return check_status(answer, address, "place for keys (/pks/add)");
}

Outcome<std::string> post(const std::string& url,
                          const std::string& content_type,
                          const std::string& body,
                          unsigned timeout_seconds) {
  if (!url.starts_with("http://") && !url.starts_with("https://")) {
    return network_problem("'" + url + "' is not an HTTP address");
  }
  POSTERN_TRY_ASSIGN(Answer answer, ask({.method = "POST",
                                         .url = url,
                                         .seconds = timeout_seconds,
                                         .content_type = content_type,
                                         .body = body}));
  POSTERN_TRY(check_status(answer, url, "answer"));
  return std::move(answer.body);
}

std::vector<FoundKey> parse_index(std::string_view text) {
  std::vector<FoundKey> out;
  while (!text.empty()) {
    std::string_view line = text::next_line(text);
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
