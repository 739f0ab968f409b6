#include "policy/judge/audit.h"

#include <array>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>

#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include <syslog.h>
#include <unistd.h>

#include "protocol/refusal_table.h"

namespace postern::judge {
namespace {

constexpr std::size_t kPathBytes = 400;
constexpr std::size_t kDetailBytes = 300;

void add(std::string& line, std::string_view name, std::string_view value) {
  line += line.empty() ? "" : " ";
  line += name;
  line += '=';
  line += value;
}

void add(std::string& line, std::string_view name, std::uint64_t value) {
  add(line, name, std::to_string(value));
}

std::string_view name_of(RootKind root) {
  switch (root) {
    case RootKind::kImage:
      return "image";
    case RootKind::kFuse:
      return "fuse";
    case RootKind::kDirectory:
      return "directory";
  }
  return "?";
}

std::string hex(const std::uint8_t* bytes, std::size_t size) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < size; ++i) {
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 15];
  }
  return text;
}

std::string namespaces(std::uint32_t flags) {
  constexpr std::array<std::pair<std::uint32_t, std::string_view>, 6> kNames = {
      {{CLONE_NEWUSER, "user"},
       {CLONE_NEWPID, "pid"},
       {CLONE_NEWIPC, "ipc"},
       {CLONE_NEWUTS, "uts"},
       {CLONE_NEWNET, "net"},
       {CLONE_NEWCGROUP, "cgroup"}}};
  std::string text;
  for (const auto& [flag, name] : kNames) {
    if ((flags & flag) != 0) {
      text += text.empty() ? "" : ",";
      text += name;
    }
  }
  return text;
}

// "bind:3,proc:1": how often each operation is asked for.
std::string operations(const LaunchRequest& request) {
  constexpr std::array<std::string_view, 1 + kOperationCount> kNames = {
      "?", "bind", "file", "tmpfs", "proc", "sysfs", "dev", "device", "devpts", "mqueue"};
  std::array<unsigned, kNames.size()> counts{};
  for (const MountRequest& mount : request.mounts) {
    ++counts[static_cast<std::size_t>(mount.operation) % kNames.size()];
  }
  std::string text;
  for (std::size_t i = 1; i < kNames.size(); ++i) {
    if (counts[i] != 0) {
      text += text.empty() ? "" : ",";
      text += std::string(kNames[i]) + ":" + std::to_string(counts[i]);
    }
  }
  return text;
}

void add_decision(std::string& line, const AuditRecord& record) {
  if (record.verdict->decision == Decision::kAllow) {
    add(line, "decision", "allow");
    return;
  }
  const auto code = static_cast<RefusalCode>(record.verdict->refusal);
  const RefusalRow* row = find_refusal(code);
  add(line, "decision", "refuse");
  add(line, "rule", row == nullptr ? "?" : row->rule);
  add(line, "item", record.verdict->refusal_item);
}

void add_request(std::string& line, const LaunchRequest& request) {
  add(line, "root", name_of(request.root));
  if (request.namespaces != 0) {
    add(line, "namespaces", namespaces(request.namespaces));
  }
  if (request.join_net) {
    add(line, "netns", "joined");
  }
  if (request.capabilities != 0) {
    add(line, "capabilities", request.capabilities);
  }
  if (!request.layers.empty()) {
    add(line, "layers", request.layers.size());
  }
  if (const std::string counts = operations(request); !counts.empty()) {
    add(line, "operations", counts);
  }
}

void add_verdict(std::string& line, const Verdict& verdict) {
  if (verdict.decision != Decision::kAllow) {
    return;
  }
  add(line, "kernel-mount", verdict.layers[0].kind == RootKind::kImage ? 1 : 0);
  if (verdict.verity.data_blocks != 0) {
    add(line, "root-hash", hex(verdict.verity.root_hash.data(), verdict.verity.root_hash.size()));
  }
  if (verdict.crypt.data_bytes != 0) {
    add(line, "encrypted", 1);
  }
}

}  // namespace

std::string quote_for_log(std::string_view text, std::size_t most) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte >= 0x20 && byte < 0x7f && c != '"' && c != '\\';
    if (quoted.size() + (plain ? 1 : 4) + 4 > most) {
      return quoted + "...\"";
    }
    if (plain) {
      quoted += c;
    } else {
      quoted += "\\x";
      quoted += kDigits[byte >> 4];
      quoted += kDigits[byte & 15];
    }
  }
  return quoted + "\"";
}

std::string audit_text(const AuditRecord& record) {
  std::string line;
  add(line, "uid", record.uid);
  add(line, "gid", record.gid);
  add_decision(line, record);
  if (!record.detail.empty()) {
    add(line, "detail", quote_for_log(record.detail, kDetailBytes));
  }
  if (record.request != nullptr) {
    add_request(line, *record.request);
  }
  add_verdict(line, *record.verdict);
  add(line, "device",
      std::to_string(major(record.root_device)) + ":" + std::to_string(minor(record.root_device)));
  add(line, "inode", record.root_inode);
  const bool proven = record.facts != nullptr && record.facts->image && record.facts->image->path;
  add(line, proven ? "path" : "path-unproven", quote_for_log(record.root_path, kPathBytes));
  if (record.facts != nullptr && record.facts->ecl) {
    add(line, "ecl-line", record.facts->ecl->line);
    add(line, "ecl", quote_for_log(record.facts->ecl->why, kDetailBytes));
  }
  line.resize(std::min(line.size(), kMaxAuditBytes - 64));  // room for priority, time and tag
  return line;
}

AuditLog AuditLog::open(const char* path) {
  AuditLog log;
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  std::array<char, 32> text{};
  // RFC 3164, 4.1.2: local time, the day padded with a space. strftime(3) in the C locale.
  if (::localtime_r(&now, &parts) != nullptr &&
      std::strftime(text.data(), text.size(), "%b %e %H:%M:%S", &parts) != 0) {
    log.time_ = text.data();
  }
  UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (!socket.valid() || std::strlen(path) >= sizeof address.sun_path) {
    return log;
  }
  std::strcpy(address.sun_path, path);
  const timeval limit{.tv_sec = 2, .tv_usec = 0};
  // SAFETY: the cast is the interface of connect(2).
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0 &&
      ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    log.socket_ = std::move(socket);
  }
  return log;
}

bool AuditLog::write(std::string_view text, bool is_refusal) const noexcept {
  const int priority = LOG_AUTHPRIV | (is_refusal ? LOG_WARNING : LOG_NOTICE);
  std::array<char, kMaxAuditBytes> line{};
  const int length =
      std::snprintf(line.data(), line.size(), "<%d>%s postern-judge[%d]: %.*s", priority,
                    time_.c_str(), ::getpid(), static_cast<int>(text.size()), text.data());
  if (length <= 0) {
    return false;
  }
  const std::size_t bytes = std::min(static_cast<std::size_t>(length), line.size() - 1);
  ssize_t sent = 0;
  do {
    sent = ::send(socket_.get(), line.data(), bytes, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent == static_cast<ssize_t>(bytes);
}

}  // namespace postern::judge
