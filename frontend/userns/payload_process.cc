#include "frontend/userns/payload_process.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <linux/capability.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "frontend/init/inside.h"
#include "frontend/init/record.h"
#include "frontend/start/image_mount.h"
#include "frontend/start/image_server.h"
#include "frontend/start/initramfs_cover.h"
#include "frontend/system/capabilities.h"
#include "frontend/system/child_stack.h"
#include "frontend/system/descriptor.h"
#include "frontend/system/initramfs.h"
#include "frontend/system/read_file.h"
#include "frontend/userns/skeleton_mount.h"
#include "helper/mounts.h"
#include "protocol/base/mount_object.h"
#include "protocol/verdict_check.h"

namespace postern::userns {
namespace {

// From the birth of the process to the payload's program. Slow file servers need some seconds.
constexpr int kDeadlineMilliseconds = 30'000;
constexpr int kGraceMilliseconds = 1'000;

// Ends the process on the first failure; whoever reads `setup` afterwards is the parent.
class Process {
 public:
  explicit Process(PayloadSetup& setup) noexcept : setup_(setup) {}

  [[noreturn]] void run_first() {
    die_with_frontend();
    if (setup_.user_namespace >= 0) {
      check(::setns(setup_.user_namespace, CLONE_NEWUSER), start::Step::kJoin, Op::kSpawn);
      if (wants(CLONE_NEWPID)) {
        start_second();
      }
      check(::unshare(namespaces()), start::Step::kUnshare, Op::kSpawn);
    } else if (const int err =
                   start::map_single_id(setup_.ids, setup_.plan->fakeroot != plan::Fakeroot::kNone);
               err != 0) {
      fail(start::Step::kMap, Error{.err = err, .op = Op::kSpawn});
    }
    build_and_execute();
  }

  [[noreturn]] void run_second() {
    die_with_frontend();
    build_and_execute();
  }

  // CLONE_NEW… flags besides the user and pid namespaces.
  [[nodiscard]] int namespaces() const noexcept {
    constexpr std::uint32_t kBornInto = CLONE_NEWUSER | CLONE_NEWPID;
    return CLONE_NEWNS | static_cast<int>(setup_.plan->request.namespaces & ~kBornInto);
  }

  [[nodiscard]] bool wants(std::uint32_t flag) const noexcept {
    return (setup_.plan->request.namespaces & flag) != 0;
  }

 private:
  [[noreturn]] void fail(start::Step step, Error error, std::size_t source = 0) noexcept {
    setup_.failure = {step, error, static_cast<std::uint16_t>(source)};
    setup_.failed = true;
    ::_exit(1);
  }

  void check(int result, start::Step step, Op op, std::size_t source = 0) noexcept {
    if (result < 0) {
      fail(step, Error{.err = errno, .op = op}, source);
    }
  }

  void die_with_frontend() noexcept {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    // The parent may have died before the line above; getppid(2) says nothing across pid
    // namespaces.
    pollfd parent = {setup_.frontend, POLLIN, 0};
    if (::poll(&parent, 1, 0) != 0) {
      ::_exit(1);
    }
  }

  UniqueFd mount_of(const start::Server& server, std::size_t source) noexcept {
    Result<UniqueFd> mount = start::clone_mount_of(server.mount_namespace.get());
    if (!mount) {
      fail(start::Step::kMount, mount.error(), source);
    }
    return *std::move(mount);
  }

  // clone(2) with CLONE_PARENT: process 1 of the new pid namespace is the frontend's child, not
  // ours.
  void start_second() noexcept {
    const system::ChildStack stack;
    const int flags = CLONE_VM | CLONE_VFORK | CLONE_PARENT | CLONE_NEWPID | namespaces();
    const pid_t pid = stack.valid()
                          ? ::clone(
                                [](void* setup) -> int {
                                  Process(*static_cast<PayloadSetup*>(setup)).run_second();
                                },
                                stack.top(), flags, &setup_)
                          : -1;
    check(pid, start::Step::kUnshare, Op::kSpawn);
    setup_.pid = pid;
    ::_exit(0);
  }

  [[noreturn]] void build_and_execute() {
    // ORDER: before anything of the host is opened, which belongs to the mount namespace then.
    if (system::has_initramfs_root()) {
      if (const Result<> covered = start::cover_initramfs(); !covered) {
        fail(start::Step::kUnshare, covered.error());
      }
    }
    if (setup_.plan->request.join_net) {
      join_net(*setup_.plan->request.join_net);
    }
    if (wants(CLONE_NEWNET)) {
      bring_up_loopback();
    }
    if (setup_.network != nullptr) {
      if (const int err = setup_.network->connect(); err != 0) {
        fail(start::Step::kNetwork, Error{.err = err, .op = Op::kSpawn});
      }
    }
    open_sources();
    // Never destroyed: this process ends by execveat(2) or _exit(2).
    std::vector<UniqueFd> descriptors;
    descriptors.reserve(setup_.descriptors.size());
    for (const int fd : setup_.descriptors) {
      descriptors.emplace_back(fd);
    }
    mount_servers(descriptors);
    clone_sources(descriptors);
    leave_served();
    merge_accounts(descriptors);
    const Plan plan = mounted();
    if (const Result<> furnished = helper::furnish_namespaces(plan); !furnished) {
      fail(start::Step::kBuild, furnished.error());
    }
    ::umask(022);  // of mount points; postern-init sets the caller's
    if (const auto built = helper::build_root(plan, descriptors, ""); !built) {
      fail(start::Step::kBuild, built.error());
    }
    execute(descriptors);
  }

  // Nodes that are mounted one by one, as inside of other containers, do not lie in the file system
  // of /dev, which is all that the helper takes in setuid mode. Here they are the caller's own to
  // use: cloned as what they are to the kernel, binds of files, and with their devices.
  void clone_sources(std::vector<UniqueFd>& descriptors) noexcept {
    std::vector<OperationEntry*> nodes;
    struct stat dev = {};
    for (OperationEntry& one :
         std::span(setup_.verdict->operations).first(setup_.verdict->operation_count)) {
      struct stat node = {};
      if (one.operation == Operation::kDevice && ::stat("/dev", &dev) == 0 &&
          descriptors[one.descriptor].valid() &&
          ::fstat(descriptors[one.descriptor].get(), &node) == 0 && S_ISCHR(node.st_mode) &&
          node.st_dev != dev.st_dev) {
        one.operation = Operation::kBind;
        nodes.push_back(&one);
      }
    }
    const Result<> cloned = helper::clone_sources(checked(), descriptors);
    if (!cloned) {
      fail(start::Step::kCloneSources, cloned.error());
    }
    mount_attr with_devices = {};
    with_devices.attr_clr = MOUNT_ATTR_NODEV;
    for (OperationEntry* const one : nodes) {
      one->operation = Operation::kDevice;
      // Where the host's mount has no devices, neither has this one.
      (void)::mount_setattr(descriptors[one->descriptor].get(), "", AT_EMPTY_PATH, &with_devices,
                            sizeof with_devices);
    }
  }

  // The parent has checked it once; whatever happened to it since is checked again.
  Plan checked() noexcept {
    const Result<Plan> plan =
        check_verdict(*setup_.verdict, setup_.descriptors.size(), kNamespaces);
    if (!plan) {
      fail(start::Step::kBuild, plan.error());
    }
    return *plan;
  }

  // The plan once its FUSE descriptors are mounts: to build_root they are what directories are.
  Plan mounted() noexcept {
    for (LayerEntry& layer : std::span(setup_.verdict->layers).first(setup_.verdict->layer_count)) {
      layer.kind = RootKind::kDirectory;
    }
    return checked();
  }

  void mount_servers(std::vector<UniqueFd>& descriptors) noexcept {
    const std::vector<plan::Source>& sources = setup_.plan->sources;
    for (std::size_t i = 0; i < sources.size(); ++i) {
      if (sources[i].kind == plan::Source::Kind::kSkeleton) {
        Result<UniqueFd> skeleton = mount_skeleton(setup_.plan->skeleton);
        if (!skeleton) {
          fail(start::Step::kMount, skeleton.error(), i);
        }
        descriptors[i] = *std::move(skeleton);
        continue;
      }
      const bool served = sources[i].kind == plan::Source::Kind::kServed;
      if (sources[i].kind != plan::Source::Kind::kFuse && !served) {
        continue;
      }
      UniqueFd mount = mount_of(*setup_.servers[sources[i].server], i);
      descriptors[i] = served ? enter_served(std::move(mount), i) : std::move(mount);
    }
  }

  // The source of a bind must be attached to be cloned (open_tree(2)): for that moment a tmpfs lies
  // on "/", where no path of ours leads, because "/" is never crossed downwards. Each mount has a
  // directory of its own there: what lay on another would be cloned with it.
  UniqueFd enter_served(UniqueFd mount, std::size_t source) noexcept {
    if (!stage_.valid()) {
      Result<UniqueFd> stage =
          new_mount("tmpfs", {{"mode", "0700"}}, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, Op::kMount);
      if (!stage) {
        fail(start::Step::kMount, stage.error(), source);
      }
      stage_ = *std::move(stage);
      check(::move_mount(stage_.get(), "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH),
            start::Step::kMount, Op::kMount, source);
    }
    Text name;
    name.add(static_cast<unsigned>(source));
    check(::mkdirat(stage_.get(), name.text(), 0700), start::Step::kMount, Op::kMount, source);
    check(::move_mount(mount.get(), "", stage_.get(), name.text(), MOVE_MOUNT_F_EMPTY_PATH),
          start::Step::kMount, Op::kMount, source);
    const plan::Source& wanted = setup_.plan->sources[source];
    Result<UniqueFd> inside = open_inside(mount.get(), wanted.path.c_str(), O_PATH);
    if (!inside && inside.error().err == ENOENT && wanted.or_root) {
      inside = open_inside(mount.get(), "/", O_PATH);
    }
    if (!inside) {
      fail(start::Step::kMount, inside.error(), source);
    }
    return *std::move(inside);
  }

  // With all that lies on it.
  void leave_served() noexcept {
    if (stage_.valid()) {
      check(::fchdir(stage_.get()), start::Step::kMount, Op::kMount);
      check(::umount2(".", MNT_DETACH), start::Step::kMount, Op::kMount);
      stage_.reset();
    }
  }

  // passwd and group: made from the image's own, which can be read only now.
  void merge_accounts(std::vector<UniqueFd>& descriptors) {
    const std::vector<plan::Source>& sources = setup_.plan->sources;
    for (std::size_t i = 0; i < sources.size(); ++i) {
      if (sources[i].kind != plan::Source::Kind::kContent ||
          sources[i].merge == plan::Source::Merge::kNone) {
        continue;
      }
      const std::optional<std::string> own = read_from_layers(sources[i].path, descriptors);
      if (!own) {
        continue;  // the operation is skipped: kNeedsTarget
      }
      Outcome<UniqueFd> merged =
          system::make_content_fd("postern", plan::finish_content(*setup_.plan, sources[i], *own));
      if (!merged) {
        fail(start::Step::kMerge, Error{.err = errno, .op = Op::kMount}, i);
      }
      descriptors[i] = *std::move(merged);
    }
  }

  // As the overlay will show it: the writable directory first, then the layers from the top.
  std::optional<std::string> read_from_layers(const std::string& path,
                                              const std::vector<UniqueFd>& descriptors) {
    const LaunchRequest& request = setup_.plan->request;
    if (request.upper) {
      if (auto text = read_inside(descriptors[*request.upper].get(), "/upper" + path)) {
        return text;
      }
    }
    for (auto layer = request.layers.rbegin(); layer != request.layers.rend(); ++layer) {
      if (auto text = read_inside(descriptors[layer->descriptor].get(), path)) {
        return text;
      }
    }
    return read_inside(descriptors[0].get(), path);
  }

  static std::optional<std::string> read_inside(int root, const std::string& path) {
    const Result<UniqueFd> file = open_inside(root, path.c_str(), O_RDONLY | O_NOCTTY | O_NONBLOCK);
    struct stat info = {};
    if (!file || ::fstat(file->get(), &info) != 0 || !S_ISREG(info.st_mode)) {
      return std::nullopt;
    }
    return system::read_small_file(file->get());
  }

  void join_net(std::size_t source) noexcept {
    const UniqueFd ns(
        ::open(setup_.plan->sources[source].path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    check(ns.get(), start::Step::kOpen, Op::kSpawn, source);
    struct stat its = {};
    struct stat ours = {};
    if (::fstat(ns.get(), &its) == 0 && ::stat("/proc/thread-self/ns/net", &ours) == 0 &&
        its.st_dev == ours.st_dev && its.st_ino == ours.st_ino) {
      return;  // Launch has joined it
    }
    check(::setns(ns.get(), CLONE_NEWNET), start::Step::kJoinNet, Op::kSpawn, source);
  }

  void bring_up_loopback() noexcept {
    const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request = {};
    std::strcpy(request.ifr_name, "lo");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (!socket.valid() || ::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) {
      fail(start::Step::kLoopback, Error{.err = errno, .op = Op::kSpawn});
    }
  }

  // In the new mount namespace: a mount can be cloned only in the namespace that its descriptor was
  // opened in. What is missing and optional stays invalid, and clone_sources passes over it.
  void open_sources() noexcept {
    const std::vector<plan::Source>& sources = setup_.plan->sources;
    for (std::size_t i = 0; i < sources.size(); ++i) {
      if (sources[i].kind != plan::Source::Kind::kPath || setup_.descriptors[i] >= 0) {
        continue;
      }
      setup_.descriptors[i] = ::open(sources[i].path.c_str(), plan::open_flags(sources[i]));
      if (setup_.descriptors[i] < 0 && !start::is_optional(*setup_.plan, i)) {
        fail(start::Step::kOpen, Error{.err = errno, .op = Op::kCloneSource}, i);
      }
    }
  }

  // Those that were open before us stay. Scripts of the image are executed in this process, and
  // what /proc/self/fd shows them must lead nowhere: from a directory of the host to all that lies
  // around it. The program and the pipe that tells of its execution end with that.
  void close_our_own(int program) {
    std::vector<int> kept = setup_.plan->inherited;
    for (const int fd : kept) {
      check(::fcntl(fd, F_SETFD, 0), start::Step::kExecute, Op::kSpawn);
    }
    kept.insert(kept.end(), {program, setup_.executed});
    std::sort(kept.begin(), kept.end());
    unsigned next = STDERR_FILENO + 1;
    for (const int fd : kept) {
      const auto number = static_cast<unsigned>(fd);
      check(number > next ? ::close_range(next, number - 1, 0) : 0, start::Step::kExecute,
            Op::kSpawn);
      next = number + 1;
    }
    check(::close_range(next, ~0U, 0), start::Step::kExecute, Op::kSpawn);
  }

  [[noreturn]] void execute(const std::vector<UniqueFd>& descriptors) {
    const LaunchRequest& request = setup_.plan->request;
    // "0" is the writer. Only now: what was done so far is the start's, not the payload's.
    if (const UniqueFd& group = setup_.plan->control_group; group.valid()) {
      check(static_cast<int>(::write(group.get(), "0", 1)), start::Step::kControlGroup, Op::kStart);
    }
    if (const int err = system::drop_capabilities(request.capabilities); err != 0) {
      fail(start::Step::kDrop, Error{.err = err, .op = Op::kStart});
    }
    // ORDER: after the last change of ids and capabilities, which may clear it (prctl(2)).
    die_with_frontend();
    setup_.prepared = true;
    setup_.limit.set_callers();
    close_our_own(descriptors[request.init].get());
    // Most payloads need nothing that postern-init alone can do: one exec less. But where an image
    // is not trusted, its scripts are not executed in memory that is the front end's too.
    const std::optional<int> status =
        setup_.plan->contain ? std::nullopt : init::run_in_place(setup_.plan->record);
    if (status) {
      ::_exit(*status);
    }
    const Outcome<UniqueFd> record =
        system::make_content_fd("postern record", init::encode(setup_.plan->record));
    if (!record) {
      fail(start::Step::kExecute, Error{.err = errno, .op = Op::kSpawn});
    }
    check(::fcntl(record->get(), F_SETFD, 0), start::Step::kExecute, Op::kSpawn);
    std::array<char, 13> name{"postern-init"};
    std::string number = std::to_string(record->get());
    std::array<char*, 3> argv = {name.data(), number.data(), nullptr};
    std::array<char*, 1> environment = {nullptr};
    ::execveat(descriptors[request.init].get(), "", argv.data(), environment.data(), AT_EMPTY_PATH);
    fail(start::Step::kExecute, Error{.err = errno, .op = Op::kSpawn});
  }

  PayloadSetup& setup_;
  UniqueFd stage_;  // where what is served is attached, as long as binds are made of it
};

}  // namespace

namespace {

// Until the process, and the second one where there is one, has executed a program or ended: they
// alone hold the other end. INVARIANT: till then they may run on this thread's memory, with its
// thread-local storage, so nothing is done here but to wait.
void wait_for_program(PayloadSetup& setup, int executed, pid_t first) noexcept {
  pollfd end = {executed, POLLIN, 0};
  if (setup.signals->poll_or_end(end, kDeadlineMilliseconds) != 0) {
    return;
  }
  // What it waits for is most likely an image, whose server is stopped: without it, there is an
  // answer. Else it waits for a file of a dead file server.
  for (const start::Server* const server : setup.servers) {
    if (server->pid > 0) {
      ::kill(server->pid, SIGKILL);
    }
  }
  if (::poll(&end, 1, kGraceMilliseconds) == 0) {
    ::kill(first, SIGKILL);
    if (setup.pid > 0) {
      ::kill(setup.pid, SIGKILL);
    }
    ::poll(&end, 1, kGraceMilliseconds);
  }
  if (!setup.failed || setup.failure.error.err == ENOTCONN) {
    setup.failure = {start::Step::kDeadline, Error{.err = ETIMEDOUT, .op = Op::kStart}, 0};
    setup.failed = true;
  }
}

}  // namespace

int start_payload(PayloadSetup& setup) {
  const system::ChildStack stack;
  const Process process(setup);
  std::array<int, 2> ends = {-1, -1};
  int flags = CLONE_VM | SIGCHLD;
  if (setup.user_namespace < 0) {
    flags |=
        CLONE_NEWUSER | process.namespaces() | (process.wants(CLONE_NEWPID) ? CLONE_NEWPID : 0);
  }
  const bool ready = stack.valid() && ::pipe2(ends.data(), O_CLOEXEC) == 0;
  const UniqueFd executed(ends[0]);
  UniqueFd held(ends[1]);
  setup.executed = ends[1];
  const pid_t pid = ready ? ::clone(
                                [](void* setup_) -> int {
                                  Process(*static_cast<PayloadSetup*>(setup_)).run_first();
                                },
                                stack.top(), flags, &setup)
                          : -1;
  if (pid < 0) {
    setup.failure = {start::Step::kClone, Error{.err = errno, .op = Op::kSpawn}, 0};
    setup.failed = true;
    return -1;
  }
  held.reset();
  wait_for_program(setup, executed.get(), pid);
  if (!setup.prepared && !setup.failed) {
    setup.failure = {start::Step::kEnded, Error{.err = ECHILD, .op = Op::kStart}, 0};
    setup.failed = true;
  }
  if (setup.pid < 0 && !setup.failed) {
    setup.pid = pid;
    return 0;
  }
  ::waitpid(pid, nullptr, 0);
  if (setup.failed && setup.pid >= 0) {
    ::waitpid(setup.pid, nullptr, 0);
  }
  return setup.failed ? -1 : 0;
}

}  // namespace postern::userns
