// The audit line: one for every privileged start, to authpriv through /dev/log (RFC 3164 form, as
// syslog(3) of every libc writes it).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "policy/judge/facts.h"
#include "protocol/base/result.h"
#include "protocol/base/unique_fd.h"
#include "protocol/launch_request.h"
#include "protocol/verdict.h"

namespace postern::judge {

// What the line tells. `request` is null where there was none to read.
struct AuditRecord {
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  const Verdict* verdict = nullptr;
  const LaunchRequest* request = nullptr;
  const Facts* facts = nullptr;
  std::string root_path;  // shown_path of descriptor 0
  std::uint64_t root_device = 0;
  std::uint64_t root_inode = 0;
  std::string detail;  // of a refusal: words about the site's own files
};

// "uid=1000 gid=1000 decision=allow root=image …", one line of printable ASCII, at most
// kMaxAuditBytes. Values that a user chose are quoted; quotes, backslashes and everything that is
// not printable ASCII are written \xNN, so that no value can end a line, forge a field or move a
// terminal's cursor (CVE-2023-28486).
[[nodiscard]] std::string audit_text(const AuditRecord& record);
inline constexpr std::size_t kMaxAuditBytes = 1024;  // RFC 3164, 4.1: what every daemon takes

// `text` between double quotes, escaped, at most `most` bytes; "…" marks what was cut.
[[nodiscard]] std::string quote_for_log(std::string_view text, std::size_t most);

class AuditLog {
 public:
  // Connects to the daemon's socket. A log that nobody listens to is "absent", not an error.
  [[nodiscard]] static AuditLog open(const char* path = "/dev/log");

  [[nodiscard]] bool is_present() const noexcept { return socket_.valid(); }

  [[nodiscard]] int socket() const noexcept { return socket_.get(); }

  // One datagram. Needs no file and no other system call than sendto(2): works in the sandbox.
  // False where the daemon did not take it within two seconds: a flooded socket must not be a way
  // around the log.
  [[nodiscard]] bool write(std::string_view text, bool is_refusal) const noexcept;

 private:
  UniqueFd socket_;
  std::string time_;  // "Nov  4 07:35:19", made before the sandbox: localtime(3) reads files
};

}  // namespace postern::judge
