// launch_tool: user-namespace mode without the command line, for tests and measurements of it.
//
//   launch_tool [--bind SOURCE:TARGET[:ro]] [--optional-bind SOURCE:TARGET] [--namespaces N]
//               [--scratch none|points|writable] [--writable] [--no-share] [--reaper]
//               [--fakeroot single|ranges] [--size BYTES] [--layer FILE]… ROOT COMMAND…
//
// ROOT is a directory, or a squashfs file.
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <sys/stat.h>

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/plan/launch_plan.h"
#include "frontend/start/wait.h"
#include "frontend/userns/launch.h"

extern char** environ;

namespace {

using postern::Operation;
using postern::plan::LaunchPlan;
using postern::plan::Source;

std::uint16_t add_source(LaunchPlan& plan, Source source) {
  plan.sources.push_back(std::move(source));
  return static_cast<std::uint16_t>(plan.sources.size() - 1);
}

std::size_t add_server(LaunchPlan& plan, const std::string& path) {
  postern::plan::ImageServer server;
  server.path = path;
  server.image = postern::UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info = {};
  if (!server.image.valid() || ::fstat(server.image.get(), &info) != 0) {
    postern::message::error(path + ": cannot be opened");
    std::exit(255);
  }
  server.bytes = static_cast<std::uint64_t>(info.st_size);
  plan.servers.push_back(std::move(server));
  return plan.servers.size() - 1;
}

void add_root(LaunchPlan& plan, const std::string& path) {
  struct stat info = {};
  const bool image = ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
  plan.request.root = image ? postern::RootKind::kFuse : postern::RootKind::kDirectory;
  plan.image_name = path;
  Source root;
  root.kind = image ? Source::Kind::kFuse : Source::Kind::kPath;
  root.path = path;
  root.server = image ? add_server(plan, path) : 0;
  plan.sources.insert(plan.sources.begin(), std::move(root));
}

void add_bind(LaunchPlan& plan, std::string_view text, std::uint8_t flags) {
  const auto colon = text.find(':');
  const std::string source(text.substr(0, colon));
  std::string_view target = text.substr(colon + 1);
  if (target.ends_with(":ro")) {
    target.remove_suffix(3);
    flags |= postern::kReadOnly;
  }
  struct stat info = {};
  if (::stat(source.c_str(), &info) != 0 || S_ISDIR(info.st_mode)) {
    flags |= postern::kDirectoryTarget;
  }
  Source path;
  path.path = source;
  postern::MountRequest mount;
  mount.operation = Operation::kBind;
  mount.flags = flags;
  mount.descriptor = add_source(plan, std::move(path));
  mount.target = target;
  plan.request.mounts.push_back(std::move(mount));
}

void add_system(LaunchPlan& plan, Operation operation, const char* target) {
  postern::MountRequest mount;
  mount.operation = operation;
  mount.flags = postern::kOptional | postern::kDirectoryTarget;
  mount.target = target;
  plan.request.mounts.push_back(std::move(mount));
}

void add_program(LaunchPlan& plan) {
  Source init;
  init.kind = Source::Kind::kInit;
  plan.request.init = add_source(plan, std::move(init));
  Source record;
  record.kind = Source::Kind::kContent;
  plan.request.record = add_source(plan, std::move(record));
}

void read_signals(postern::init::LaunchRecord& record) {
  sigset_t blocked;
  ::sigprocmask(SIG_SETMASK, nullptr, &blocked);
  for (int number = 1; number < NSIG; ++number) {
    struct sigaction action = {};
    if (::sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) {
      record.ignored_signals |= std::uint64_t{1} << (number - 1);
    }
    if (::sigismember(&blocked, number) == 1) {
      record.blocked_signals |= std::uint64_t{1} << (number - 1);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  LaunchPlan plan;
  std::vector<std::string> layers;
  // Sources that need descriptor numbers above the root's are added once the root is known.
  std::vector<std::pair<std::string, std::uint8_t>> binds;
  int at = 1;
  const auto value = [&]() -> std::string { return at + 1 < argc ? argv[++at] : ""; };
  for (; at < argc && std::strncmp(argv[at], "--", 2) == 0; ++at) {
    const std::string_view option = argv[at];
    if (option == "--bind") {
      binds.emplace_back(value(), std::uint8_t{0});
    } else if (option == "--optional-bind") {
      binds.emplace_back(value(), postern::kOptional);
    } else if (option == "--namespaces") {
      plan.request.namespaces = static_cast<std::uint32_t>(std::atoi(value().c_str()));
    } else if (option == "--scratch") {
      const std::string kind = value();
      plan.request.scratch = kind == "none"     ? postern::Scratch::kNone
                             : kind == "points" ? postern::Scratch::kMountPoints
                                                : postern::Scratch::kWritable;
    } else if (option == "--writable") {
      plan.request.writable_root = true;
    } else if (option == "--no-share") {
      plan.share = false;
    } else if (option == "--reaper") {
      plan.record.reaper = true;
    } else if (option == "--fakeroot") {
      plan.fakeroot = value() == "single" ? postern::plan::Fakeroot::kRootMapped
                                          : postern::plan::Fakeroot::kSubordinate;
      plan.request.capabilities = ~std::uint64_t{0} >> 23;
    } else if (option == "--size") {
      plan.request.scratch_bytes = std::strtoull(value().c_str(), nullptr, 10);
    } else if (option == "--layer") {
      layers.push_back(value());
    }
  }
  if (at + 1 >= argc) {
    postern::message::error("usage: launch_tool [OPTION]… ROOT COMMAND…");
    return 1;
  }
  add_root(plan, argv[at++]);
  add_program(plan);
  for (const std::string& path : layers) {
    Source source;
    source.kind = Source::Kind::kFuse;
    source.server = add_server(plan, path);
    plan.request.layers.push_back({postern::RootKind::kFuse, add_source(plan, std::move(source))});
  }
  add_system(plan, Operation::kProc, "/proc");
  add_system(plan, Operation::kSysfs, "/sys");
  add_system(plan, Operation::kDevHost, "/dev");
  for (const auto& [text, flags] : binds) {
    add_bind(plan, text, flags);
  }
  plan.record.argv.assign(argv + at, argv + argc);
  for (char** one = environ; *one != nullptr; ++one) {
    plan.record.environment.emplace_back(*one);
  }
  plan.record.cwd = "/";
  plan.record.umask = ::umask(022);
  ::umask(plan.record.umask);
  read_signals(plan.record);
  const postern::Outcome<int> status = postern::userns::launch(std::move(plan));
  if (!status) {
    postern::message::fatal(status.error());
    return status.error().exit_code;
  }
  return postern::start::finish_like(*status);
}
