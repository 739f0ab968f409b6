// HTTP and HTTPS: the one place that knows libcurl.
//
// What holds for every transfer: an Authorization goes to the scheme, host and port it was given
// for and to no other, whatever redirects say; redirects never lead from https to http; a cut
// transfer is resumed by Range, a busy server is asked again later; a stalled one is given up.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::net {

struct Header {
  std::string name;
  std::string value;
};

struct Answer {
  long status = 0;
  std::string url;              // of the server that answered, after redirects
  std::vector<Header> headers;  // names in lower case
  std::string body;             // unless it went to a sink

  // The value of the first header of this (lower-case) name; null where there is none.
  [[nodiscard]] const std::string* header(std::string_view name) const noexcept;
};

// Where a large body goes.
class Sink {
 public:
  virtual ~Sink() = default;
  // Bytes that are there: a cut transfer goes on from here.
  [[nodiscard]] virtual std::uint64_t position() const = 0;
  // What the body must have in all; kUnknownSize where that is not known.
  [[nodiscard]] virtual std::uint64_t expected() const = 0;
  virtual Outcome<> take(std::span<const std::byte> bytes) = 0;
  // Back to position 0: the server cannot resume.
  virtual Outcome<> restart() = 0;
};

inline constexpr std::uint64_t kUnknownSize = ~std::uint64_t{0};

struct Request {
  std::string method = "GET";
  std::string url = {};
  std::vector<Header> headers = {};
  std::string authorization = {};  // the header's value, for this URL's scheme, host and port alone
  // After a 401 of that host: the next value to try, or "" to let the 401 stand.
  std::function<Outcome<std::string>(const Answer& refusal)> challenge = {};
  std::string body = {};
  int file = -1;  // or a body from this descriptor, borrowed
  std::uint64_t file_offset = 0;
  std::uint64_t file_bytes = 0;
  Sink* sink = nullptr;                     // of the body of a 200 or 206; borrowed
  std::size_t most = std::size_t{4} << 20;  // bytes of a body that goes to no sink
  unsigned seconds = 0;                     // for everything together; 0: as long as bytes flow
  bool retry = true;
};

struct ClientOptions {
  bool verify_tls = true;
  bool plain_redirects = false;                  // from https to http (--no-https)
  std::function<bool()> cancelled = {};          // asked often: a signal came
  std::function<void(std::uint64_t)> sent = {};  // bytes of request bodies, for progress
};

class Client {
 public:
  explicit Client(ClientOptions options);
  ~Client();
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Any status is an answer. Error: no answer came, or it breaks a limit of the request.
  Outcome<Answer> perform(const Request& request);

  // Several at once, at most `parallel`; ends early at the first error. One Client is used by one
  // thread at a time.
  Outcome<std::vector<Answer>> perform_all(std::span<const Request> requests, unsigned parallel);

 private:
  class Engine;
  std::unique_ptr<Engine> engine_;
};

// "https://host:port" of a URL: what credentials belong to. The port is always there. Error: not an
// http(s) URL.
Outcome<std::string> origin_of(const std::string& url);
// The host in a URL, lower case, brackets of IPv6 removed.
Outcome<std::string> host_of(const std::string& url);
// `reference` (absolute or relative) seen from `base`.
Outcome<std::string> resolve_url(const std::string& base, const std::string& reference);
// "localhost" and what is below it, 127.0.0.0/8, ::1.
bool is_loopback(std::string_view host);
// Loopback, or a literal address of a private or link-local network (RFC 1918, 3927, 4193, 4291).
bool is_private_address(std::string_view host);

// "Basic …" of a name and a password.
std::string basic_authorization(std::string_view user, std::string_view password);

// The error for an answer that is none of the expected: what was asked for, status, and what the
// server says in its body where that is short text or a registry's error document.
Problem unexpected_answer(const std::string& what, const Answer& answer);

}  // namespace postern::net
