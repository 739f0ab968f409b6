// Runs a command and breaks one of its changes to files, or records all of them.
//
//   fault_tracer --watch DIR [--watch DIR…] [--log FILE] [--at N --fault FAULT] -- COMMAND
//   [ARGUMENT…]
//
// A change is a system call of the command, or of a process that it started, that writes, syncs,
// truncates, makes, names or removes something below a watched directory. Changes are numbered from
// 1 in the order in which they happen. FAULT, at change N:
//   kill      the command and all its processes end before the change (SIGKILL)
//   torn      half of a write is done, then as kill; other changes: as kill
//   short     half of a write is done, and the command is told so; other changes are left alone
//   EIO, ENOSPC, EDQUOT    the change fails with this error and is not done
// --log: one JSON object a line for each change that succeeded, with the bytes in FILE.data, for a
// replay in which what was not synced is lost. The last line of standard error is "changes N". The
// exit status is the command's, 137 after kill.
//
// seccomp(2) stops the command at the calls of interest only (SECCOMP_RET_TRACE), ptrace(2) does
// the rest.
#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <unistd.h>

namespace {

enum class Kind {
  kWrite,         // fd in argument `fd`, address 1, bytes 2; offset 3 if `positioned`
  kVector,        // iovec in 1, count in 2; offset 3 if `positioned`
  kMove,          // bytes that the kernel moves into `fd`; which ones is read back afterwards
  kOfDescriptor,  // ftruncate, fsync, fchmod…
  kOfPath,        // directory descriptor in `fd` (-1: none), path in `path`
  kOfTwoPaths,    // and a second pair behind them
  kOpen,          // a change only with O_CREAT, O_TRUNC or O_TMPFILE
};

struct Call {
  long number;
  const char* name;
  Kind kind;
  int fd = 0;
  int path = 0;
  int second_fd = -1;
  int second_path = -1;
  bool positioned = false;
};

constexpr int kNone = -1;

// clang-format off
constexpr Call kCalls[] = {
    {SYS_write, "write", Kind::kWrite},
    {SYS_pwrite64, "write", Kind::kWrite, 0, 0, -1, -1, true},
    {SYS_writev, "write", Kind::kVector},
    {SYS_pwritev, "write", Kind::kVector, 0, 0, -1, -1, true},
    {SYS_pwritev2, "write", Kind::kVector, 0, 0, -1, -1, true},
    {SYS_sendfile, "write", Kind::kMove, 0},
    {SYS_copy_file_range, "write", Kind::kMove, 2},
    {SYS_splice, "write", Kind::kMove, 2},
    {SYS_fallocate, "fallocate", Kind::kOfDescriptor},
    {SYS_ftruncate, "truncate", Kind::kOfDescriptor},
    {SYS_fsync, "sync", Kind::kOfDescriptor},
    {SYS_fdatasync, "sync", Kind::kOfDescriptor},
    {SYS_syncfs, "syncfs", Kind::kOfDescriptor},
    {SYS_fchmod, "chmod", Kind::kOfDescriptor},
    {SYS_fchown, "chown", Kind::kOfDescriptor},
    {SYS_truncate, "truncate", Kind::kOfPath, kNone, 0},
    {SYS_unlink, "unlink", Kind::kOfPath, kNone, 0},
    {SYS_unlinkat, "unlink", Kind::kOfPath, 0, 1},
    {SYS_rmdir, "rmdir", Kind::kOfPath, kNone, 0},
    {SYS_mkdir, "mkdir", Kind::kOfPath, kNone, 0},
    {SYS_mkdirat, "mkdir", Kind::kOfPath, 0, 1},
    {SYS_mknod, "mknod", Kind::kOfPath, kNone, 0},
    {SYS_mknodat, "mknod", Kind::kOfPath, 0, 1},
    {SYS_chmod, "chmod", Kind::kOfPath, kNone, 0},
    {SYS_fchmodat, "chmod", Kind::kOfPath, 0, 1},
    {SYS_chown, "chown", Kind::kOfPath, kNone, 0},
    {SYS_lchown, "chown", Kind::kOfPath, kNone, 0},
    {SYS_fchownat, "chown", Kind::kOfPath, 0, 1},
    {SYS_utimensat, "utimes", Kind::kOfPath, 0, 1},
    {SYS_rename, "rename", Kind::kOfTwoPaths, kNone, 0, kNone, 1},
    {SYS_renameat, "rename", Kind::kOfTwoPaths, 0, 1, 2, 3},
    {SYS_renameat2, "rename", Kind::kOfTwoPaths, 0, 1, 2, 3},
    {SYS_link, "link", Kind::kOfTwoPaths, kNone, 0, kNone, 1},
    {SYS_linkat, "link", Kind::kOfTwoPaths, 0, 1, 2, 3},
    {SYS_symlink, "symlink", Kind::kOfPath, kNone, 1},
    {SYS_symlinkat, "symlink", Kind::kOfPath, 1, 2},
    {SYS_open, "open", Kind::kOpen, kNone, 0},
    {SYS_creat, "open", Kind::kOpen, kNone, 0},
    {SYS_openat, "open", Kind::kOpen, 0, 1},
};
// clang-format on

// openat2(2) has its flags in memory, which a filter cannot see; nothing here opens for writing by
// it.

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "fault_tracer: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(2);
}

struct Options {
  std::vector<std::string> watched;
  std::string log;
  long at = 0;
  std::string fault;
  char** command = nullptr;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view word = argv[i];
    if (word == "--") {
      options.command = argv + i + 1;
      break;
    }
    if (i + 1 >= argc) {
      break;
    }
    if (word == "--watch") {
      std::array<char, PATH_MAX> real{};
      if (::realpath(argv[i + 1], real.data()) == nullptr) {
        die(argv[i + 1]);
      }
      options.watched.emplace_back(real.data());
    } else if (word == "--log") {
      options.log = argv[i + 1];
    } else if (word == "--at") {
      options.at = std::atol(argv[i + 1]);
    } else if (word == "--fault") {
      options.fault = argv[i + 1];
    }
  }
  if (options.command == nullptr || *options.command == nullptr || options.watched.empty()) {
    std::fprintf(
        stderr, "usage: fault_tracer --watch DIR [--log FILE] [--at N --fault FAULT] -- COMMAND\n");
    std::exit(2);
  }
  return options;
}

void stop_at_changes() {
  std::vector<sock_filter> filter;
  filter.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
  for (const Call& call : kCalls) {
    filter.push_back(
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(call.number), 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE));
  }
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  if (::geteuid() != 0) {
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  }
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    die("seccomp");
  }
}

std::string link_text(const std::string& path) {
  std::array<char, PATH_MAX + 16> text{};
  const ssize_t size = ::readlink(path.c_str(), text.data(), text.size());
  return size < 0 ? std::string() : std::string(text.data(), static_cast<std::size_t>(size));
}

std::string of_process(pid_t pid, const std::string& rest) {
  return "/proc/" + std::to_string(pid) + "/" + rest;
}

bool read_memory(pid_t pid, std::uint64_t address, void* out, std::size_t size) {
  // SAFETY: an address of the other process; only the kernel follows it.
  const iovec from{reinterpret_cast<void*>(address), size};
  const iovec to{out, size};
  return ::process_vm_readv(pid, &to, 1, &from, 1, 0) == static_cast<ssize_t>(size);
}

std::string read_text(pid_t pid, std::uint64_t address) {
  std::string text;
  char byte = 0;
  while (text.size() < PATH_MAX && read_memory(pid, address + text.size(), &byte, 1) && byte != 0) {
    text += byte;
  }
  return text;
}

std::string json(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    std::array<char, 8> escaped{};
    if (c == '"' || c == '\\' || static_cast<unsigned char>(c) < 0x20) {
      std::snprintf(escaped.data(), escaped.size(), "\\u%04x", static_cast<unsigned char>(c));
      out += escaped.data();
    } else {
      out += c;
    }
  }
  return out + "\"";
}

class Tracer {
 public:
  explicit Tracer(Options options) : options_(std::move(options)) {
    if (!options_.log.empty()) {
      log_ = std::fopen(options_.log.c_str(), "we");
      data_ = std::fopen((options_.log + ".data").c_str(), "we");
      if (log_ == nullptr || data_ == nullptr) {
        die(options_.log);
      }
    }
  }

  int run() {
    start();
    while (!alive_.empty()) {
      int status = 0;
      const pid_t pid = ::waitpid(-1, &status, __WALL);
      if (pid < 0) {
        break;
      }
      if (WIFEXITED(status) || WIFSIGNALED(status)) {
        ended(pid, status);
      } else if (WIFSTOPPED(status)) {
        stopped(pid, status);
      }
    }
    std::fprintf(stderr, "changes %ld\n", changes_);
    return result_;
  }

 private:
  struct Change {
    const Call* call;
    std::array<std::uint64_t, 6> arguments;
    std::string path;         // of the descriptor, or of the first path
    std::string second_path;  // new name of rename and link
    std::uint64_t offset = 0;
    bool tear = false;
  };

  void start() {
    first_ = ::fork();
    if (first_ < 0) {
      die("fork");
    }
    if (first_ == 0) {
      ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
      ::raise(SIGSTOP);
      stop_at_changes();
      ::execvp(options_.command[0], options_.command);
      die(options_.command[0]);
    }
    int status = 0;
    if (::waitpid(first_, &status, 0) != first_ || !WIFSTOPPED(status)) {
      die("the command");
    }
    const long wanted = PTRACE_O_EXITKILL | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACEFORK |
                        PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC |
                        PTRACE_O_TRACESYSGOOD;
    if (::ptrace(PTRACE_SETOPTIONS, first_, nullptr, wanted) != 0) {
      die("ptrace");
    }
    alive_.insert(first_);
    resume(first_, 0);
  }

  static void resume(pid_t pid, int signal, bool to_exit = false) {
    ::ptrace(to_exit ? PTRACE_SYSCALL : PTRACE_CONT, pid, nullptr, static_cast<long>(signal));
  }

  void ended(pid_t pid, int status) {
    alive_.erase(pid);
    pending_.erase(pid);
    if (pid == first_) {
      result_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
  }

  void stopped(pid_t pid, int status) {
    alive_.insert(pid);
    const int signal = WSTOPSIG(status);
    const int event = status >> 16;
    if (event == PTRACE_EVENT_SECCOMP) {
      at_call(pid);
    } else if (signal == (SIGTRAP | 0x80)) {
      at_exit(pid);
    } else if (event != 0 ||
               (signal == SIGSTOP && stopped_once_.insert(pid).second && pid != first_)) {
      resume(pid, 0);  // a new process or thread begins with SIGSTOP
    } else {
      resume(pid, signal);
    }
  }

  [[nodiscard]] bool is_watched(const std::string& path) const {
    return std::any_of(
        options_.watched.begin(), options_.watched.end(),
        [&](const std::string& top) { return path == top || path.starts_with(top + "/"); });
  }

  static std::string full_path(pid_t pid,
                               std::optional<std::uint64_t> fd,
                               const std::string& path) {
    // "/proc/self/fd/N/NAME", in a directory that is open; "/proc/self/fd/N" alone stays.
    constexpr std::string_view kDescriptors = "/proc/self/fd/";
    if (const auto rest = path.find('/', kDescriptors.size());
        path.starts_with(kDescriptors) && rest != path.npos) {
      const std::string number = path.substr(kDescriptors.size(), rest - kDescriptors.size());
      return link_text(of_process(pid, "fd/" + number)) + path.substr(rest);
    }
    if (path.starts_with('/')) {
      return path;
    }
    const int number = fd ? static_cast<int>(*fd) : AT_FDCWD;
    const std::string base =
        link_text(of_process(pid, number == AT_FDCWD ? "cwd" : "fd/" + std::to_string(number)));
    return path.empty() ? base : path == "." ? base : base + "/" + path;
  }

  std::optional<Change> change_of(pid_t pid, const __ptrace_syscall_info& info) {
    const auto number = static_cast<long>(info.seccomp.nr);
    const Call* call = std::find_if(std::begin(kCalls), std::end(kCalls),
                                    [&](const Call& one) { return one.number == number; });
    if (call == std::end(kCalls)) {
      return std::nullopt;
    }
    Change change{.call = call, .arguments = {}, .path = {}, .second_path = {}};
    std::copy(std::begin(info.seccomp.args), std::end(info.seccomp.args), change.arguments.begin());
    const auto argument = [&](int at) { return change.arguments[static_cast<std::size_t>(at)]; };
    const auto path_at = [&](int fd, int path) {
      return full_path(pid, fd < 0 ? std::nullopt : std::optional(argument(fd)),
                       read_text(pid, argument(path)));
    };
    if (call->kind == Kind::kOfPath || call->kind == Kind::kOfTwoPaths ||
        call->kind == Kind::kOpen) {
      change.path = path_at(call->fd, call->path);
      if (call->kind == Kind::kOfTwoPaths) {
        change.second_path = path_at(call->second_fd, call->second_path);
      }
      const std::uint64_t flags = number == SYS_creat ? O_CREAT : argument(call->path + 1);
      const bool makes = (flags & (O_CREAT | O_TRUNC)) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
      if (call->kind == Kind::kOpen && !makes) {
        return std::nullopt;
      }
    } else {
      change.path =
          link_text(of_process(pid, "fd/" + std::to_string(static_cast<int>(argument(call->fd)))));
    }
    if (!is_watched(change.path) && !is_watched(change.second_path)) {
      return std::nullopt;
    }
    return change;
  }

  static bool is_write(const Change& change) {
    return change.call->kind == Kind::kWrite || change.call->kind == Kind::kVector ||
           change.call->kind == Kind::kMove;
  }

  void at_call(pid_t pid) {
    __ptrace_syscall_info info{};
    if (::ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) <= 0) {
      resume(pid, 0);
      return;
    }
    auto change = change_of(pid, info);
    if (!change) {
      resume(pid, 0);
      return;
    }
    ++changes_;
    if (changes_ == options_.at && break_change(pid, *change)) {
      return;
    }
    if (log_ != nullptr || change->tear) {
      change->offset = position(pid, *change);
      pending_[pid] = *change;
      resume(pid, 0, true);
      return;
    }
    resume(pid, 0);
  }

  // Whether the process has been told to go on, or not to.
  bool break_change(pid_t pid, Change& change) {
    const std::string& fault = options_.fault;
    std::fprintf(stderr, "change %ld: %s %s %s\n", changes_, change.call->name, change.path.c_str(),
                 change.second_path.c_str());
    if (fault == "kill") {
      kill_all();
      return true;
    }
    if (fault == "torn" || fault == "short") {
      const bool halved = change.call->kind == Kind::kWrite && change.arguments[2] > 1;
      if (halved) {
        user_regs_struct registers{};
        ::ptrace(PTRACE_GETREGS, pid, nullptr, &registers);
        registers.rdx /= 2;
        ::ptrace(PTRACE_SETREGS, pid, nullptr, &registers);
      } else if (fault == "torn") {
        kill_all();
        return true;
      }
      change.tear = fault == "torn";
      return false;
    }
    user_regs_struct registers{};
    ::ptrace(PTRACE_GETREGS, pid, nullptr, &registers);
    registers.orig_rax = static_cast<unsigned long long>(-1);  // seccomp(2): the call is skipped
    const int error = fault == "ENOSPC" ? ENOSPC : fault == "EDQUOT" ? EDQUOT : EIO;
    registers.rax = static_cast<unsigned long long>(-error);
    ::ptrace(PTRACE_SETREGS, pid, nullptr, &registers);
    resume(pid, 0);
    return true;
  }

  void kill_all() {
    for (const pid_t pid : alive_) {
      ::kill(pid, SIGKILL);
    }
  }

  // Where a write without an offset of its own begins.
  static std::uint64_t position(pid_t pid, const Change& change) {
    if (!is_write(change)) {
      return 0;
    }
    if (change.call->positioned) {
      return change.arguments[3];
    }
    const auto number = std::to_string(
        static_cast<int>(change.arguments[static_cast<std::size_t>(change.call->fd)]));
    std::FILE* info = std::fopen(of_process(pid, "fdinfo/" + number).c_str(), "re");
    unsigned long long at = 0;
    unsigned flags = 0;
    if (info != nullptr) {
      if (std::fscanf(info, "pos: %llu flags: %o", &at, &flags) != 2) {
        at = 0;
      }
      std::fclose(info);
    }
    struct stat status{};
    if ((flags & O_APPEND) != 0 && ::stat(of_process(pid, "fd/" + number).c_str(), &status) == 0) {
      at = static_cast<unsigned long long>(status.st_size);
    }
    return at;
  }

  void at_exit(pid_t pid) {
    const auto found = pending_.find(pid);
    if (found == pending_.end()) {
      resume(pid, 0);
      return;
    }
    const Change change = found->second;
    __ptrace_syscall_info info{};
    ::ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info);
    if (info.op != PTRACE_SYSCALL_INFO_EXIT) {
      resume(pid, 0, true);  // the entry, behind the filter
      return;
    }
    pending_.erase(found);
    if (change.tear) {
      kill_all();
      return;
    }
    if (log_ != nullptr && info.exit.is_error == 0) {
      record(pid, change, info.exit.rval);
    }
    resume(pid, 0);
  }

  void record(pid_t pid, const Change& change, std::int64_t result) {
    struct stat status{};
    int fd = change.call->kind == Kind::kOpen ? static_cast<int>(result)
             : change.call->kind == Kind::kOfPath || change.call->kind == Kind::kOfTwoPaths
                 ? -1
                 : static_cast<int>(change.arguments[static_cast<std::size_t>(change.call->fd)]);
    const std::string named = change.second_path.empty() ? change.path : change.second_path;
    const bool known =
        fd >= 0 ? ::stat(of_process(pid, "fd/" + std::to_string(fd)).c_str(), &status) == 0
                : ::lstat(named.c_str(), &status) == 0;
    std::uint64_t size = 0;
    std::uint64_t data_at = 0;
    if (is_write(change)) {
      size = static_cast<std::uint64_t>(result);
      data_at = save(pid, fd, change.offset, size);
    } else {  // the size as it is now: after truncation, allocation, and opening with O_TRUNC
      size = known ? static_cast<std::uint64_t>(status.st_size) : 0;
    }
    std::fprintf(
        log_,
        "{\"n\": %ld, \"call\": \"%s\", \"path\": %s, \"to\": %s, \"ino\": %llu, \"offset\": %llu, "
        "\"size\": %llu, \"data\": %llu}\n",
        changes_, change.call->name, json(change.path).c_str(), json(change.second_path).c_str(),
        known ? static_cast<unsigned long long>(status.st_ino) : 0ULL,
        static_cast<unsigned long long>(change.offset), static_cast<unsigned long long>(size),
        static_cast<unsigned long long>(data_at));
    std::fflush(log_);
  }

  // What was written, read back from the file. Returns where it lies in the data file.
  std::uint64_t save(pid_t pid, int fd, std::uint64_t offset, std::uint64_t size) {
    const auto at = static_cast<std::uint64_t>(std::ftell(data_));
    std::vector<char> bytes(size);
    const int file =
        ::open(of_process(pid, "fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC);
    const ssize_t got =
        file < 0 ? -1 : ::pread(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    ::close(file);
    if (got != static_cast<ssize_t>(size)) {
      std::fprintf(stderr, "fault_tracer: what was written cannot be read back\n");
    }
    std::fwrite(bytes.data(), 1, bytes.size(), data_);
    std::fflush(data_);
    return at;
  }

  Options options_;
  pid_t first_ = -1;
  std::set<pid_t> alive_;
  std::set<pid_t> stopped_once_;
  std::map<pid_t, Change> pending_;
  long changes_ = 0;
  int result_ = 2;
  std::FILE* log_ = nullptr;
  std::FILE* data_ = nullptr;
};

}  // namespace

int main(int argc, char** argv) {
  return Tracer(parse(argc, argv)).run();
}
