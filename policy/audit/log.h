// Where entries of the audit go: facility authpriv of the syslog daemon behind /dev/log (RFC 3164
// form, as syslog(3) of every libc writes it), and the journal with its fields.
#pragma once

#include <string>

#include "policy/audit/record.h"
#include "protocol/base/unique_fd.h"

namespace postern::audit {

inline constexpr const char* kSyslogSocket = "/dev/log";
inline constexpr const char* kJournalSocket = "/run/systemd/journal/socket";

class Log {
 public:
  // Connects to both sockets. A log that nobody listens to is "absent", not an error. Where
  // /dev/log is the journal's own, it gets an entry only once: the one with fields.
  [[nodiscard]] static Log open(std::string program,
                                const char* syslog = kSyslogSocket,
                                const char* journal = kJournalSocket);

  [[nodiscard]] bool is_present() const noexcept { return syslog_.valid() || journal_.valid(); }

  // Descriptors that write() sends to; -1 where there is none.
  [[nodiscard]] int syslog_socket() const noexcept { return syslog_.get(); }

  [[nodiscard]] int journal_socket() const noexcept { return journal_.get(); }

  // One datagram to each. Needs no file and no other system call than sendto(2): works in the
  // judge's sandbox. False where one did not take it within two seconds: a flooded socket must not
  // be a way around the log.
  [[nodiscard]] bool write(const Record& record, bool is_refusal) const;

 private:
  std::string program_;
  UniqueFd syslog_;
  UniqueFd journal_;
  std::string time_;  // "Nov  4 07:35:19", made before the sandbox: localtime(3) reads files
};

}  // namespace postern::audit
