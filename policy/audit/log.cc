#include "policy/audit/log.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string_view>

#include <sys/socket.h>
#include <sys/un.h>

#include <syslog.h>
#include <unistd.h>

namespace postern::audit {
namespace {

UniqueFd connect_to(const char* path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (!socket.valid() || std::strlen(path) >= sizeof address.sun_path) {
    return {};
  }
  std::strcpy(address.sun_path, path);
  const timeval limit{.tv_sec = 2, .tv_usec = 0};
  // SAFETY: the cast is the interface of connect(2).
  const bool connected =
      ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0 &&
      ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  return connected ? std::move(socket) : UniqueFd();
}

// Whether the journal reads this socket: it lies in the folder of the journal's own.
bool is_of_journal(const char* syslog, const char* journal) {
  std::array<char, PATH_MAX> buffer;
  const char* const real = ::realpath(syslog, buffer.data());
  const std::string_view own(journal);
  const std::string_view folder = own.substr(0, own.rfind('/') + 1);
  return real != nullptr && std::string_view(real).starts_with(folder);
}

// RFC 3164, 4.1.2: local time, the day padded with a space. strftime(3) in the C locale. It reads
// the time zone's file, which the sandbox would not let it.
std::string time_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  std::array<char, 32> text{};
  const bool known = ::localtime_r(&now, &parts) != nullptr &&
                     std::strftime(text.data(), text.size(), "%b %e %H:%M:%S", &parts) != 0;
  return known ? text.data() : "";
}

bool send_whole(int socket, std::string_view bytes) {
  ssize_t sent = 0;
  do {
    sent = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent == static_cast<ssize_t>(bytes.size());
}

}  // namespace

Log Log::open(std::string program, const char* syslog, const char* journal) {
  Log log;
  log.program_ = std::move(program);
  log.journal_ = connect_to(journal);
  if (!log.journal_.valid() || !is_of_journal(syslog, journal)) {
    log.syslog_ = connect_to(syslog);
  }
  if (log.syslog_.valid()) {
    log.time_ = time_now();
  }
  return log;
}

bool Log::write(const Record& record, bool is_refusal) const {
  const int level = is_refusal ? LOG_WARNING : LOG_NOTICE;
  bool taken = true;
  if (syslog_.valid()) {
    std::string line = '<' + std::to_string(LOG_AUTHPRIV | level) + '>' + time_ + ' ' + program_ +
                       '[' + std::to_string(::getpid()) + "]: " + record.line();
    line.resize(std::min(line.size(), kMaxLineBytes - 1));
    taken = send_whole(syslog_.get(), line);
  }
  if (journal_.valid()) {
    taken = send_whole(journal_.get(), record.journal_entry(program_, level)) && taken;
  }
  return taken;
}

}  // namespace postern::audit
