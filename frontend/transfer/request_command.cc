// request: one HTTP request for another program of ours that does not load libcurl (postern-keys).
//
// Standard input: "METHOD URL", seconds, the value of Authorization, the type of the body, each on
// a line of its own that may be empty, then the body. Standard output: "ok STATUS PAGE", PAGE being
// X-HKP-Next-Page-Token, then a line end and the body; or "error", a tab, what went wrong, a tab
// and the cure.
#include <array>
#include <charconv>
#include <cstdio>
#include <string>

#include <unistd.h>

#include "frontend/imagebuild/interrupt.h"
#include "frontend/net/http.h"
#include "frontend/transfer/command.h"
#include "protocol/exit_codes.h"

namespace postern::transfer {
namespace {

constexpr std::size_t kMaxBytes = std::size_t{16} << 20;

Outcome<net::Request> read_request() {
  std::string text;
  std::array<char, 65536> piece;
  for (std::size_t got = 1; got > 0 && text.size() <= kMaxBytes;) {
    got = std::fread(piece.data(), 1, piece.size(), stdin);
    text.append(piece.data(), got);
  }
  std::array<std::string, 4> lines;
  std::size_t at = 0;
  for (std::string& line : lines) {
    const std::size_t end = text.find('\n', at);
    if (end == std::string::npos || text.size() > kMaxBytes) {
      return Problem{.what = "no request stands on standard input", .exit_code = kExitUsage};
    }
    line = text.substr(at, end - at);
    at = end + 1;
  }
  net::Request out;
  const std::size_t blank = lines[0].find(' ');
  out.method = lines[0].substr(0, blank);
  out.url = blank == std::string::npos ? "" : lines[0].substr(blank + 1);
  std::from_chars(lines[1].data(), lines[1].data() + lines[1].size(), out.seconds);
  out.authorization = lines[2];
  if (!lines[3].empty()) {
    out.headers.push_back({"Content-Type", lines[3]});
  }
  out.body = text.substr(at);
  out.most = kMaxBytes;
  out.retry = false;  // who asks has other servers to ask
  return out;
}

std::string without_breaks(std::string text) {
  for (char& c : text) {
    c = c == '\n' || c == '\t' ? ' ' : c;
  }
  return text;
}

}  // namespace

int request_command(std::span<const std::string>) {
  const auto request = read_request();
  if (!request) {
    return fail(request.error());
  }
  net::Client client({.cancelled = [] { return imagebuild::interrupt_signal() != 0; }});
  const auto answer = client.perform(*request);
  std::string out;
  if (answer) {
    const std::string* page = answer->header("x-hkp-next-page-token");
    out = "ok " + std::to_string(answer->status) + " " + (page != nullptr ? *page : "") + "\n" +
          answer->body;
  } else {
    out = "error\t" + without_breaks(answer.error().what) + "\t" +
          without_breaks(answer.error().cure) + "\n";
  }
  const bool written = std::fwrite(out.data(), 1, out.size(), stdout) == out.size();
  return written && std::fflush(stdout) == 0 ? 0 : kExitFatal;
}

}  // namespace postern::transfer
