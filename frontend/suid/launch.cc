#include "frontend/suid/launch.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include <linux/magic.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/init/handover.h"
#include "frontend/init/record.h"
#include "frontend/message/message.h"
#include "frontend/plan/unlock.h"
#include "frontend/start/failure.h"
#include "frontend/start/image_server.h"
#include "frontend/start/wait.h"
#include "frontend/suid/accounts.h"
#include "frontend/suid/refusal_words.h"
#include "frontend/suid/seal_watch.h"
#include "frontend/system/descriptor.h"
#include "frontend/system/descriptor_limit.h"
#include "frontend/system/libexec.h"
#include "frontend/system/spawn.h"
#include "policy/config/read_file.h"
#include "policy/ecl/claims.h"
#include "policy/ecl/ecl.h"
#include "policy/judge/decide.h"
#include "policy/judge/gather.h"
#include "policy/path/path_prefix.h"
#include "protocol/base/mount_object.h"
#include "protocol/channel.h"
#include "protocol/launch_codec.h"
#include "protocol/limits.h"

namespace postern::suid {
namespace {

using Kind = plan::Source::Kind;

constexpr int kHelperSocket = 3;  // where the helper expects it
constexpr const char* kHelper = "postern-helper";

bool is_identity_map(const std::string& text) {
  // "0 0 4294967295", padded: the initial user namespace (user_namespaces(7)).
  std::string fields;
  for (const char c : text) {
    if (c != ' ' && c != '\n') {
      fields += c;
    } else if (!fields.empty() && fields.back() != ' ') {
      fields += ' ';
    }
  }
  return fields == "0 0 4294967295 ";
}

bool is_nested() {
  const UniqueFd file(::open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC));
  std::array<char, 256> text{};
  const ssize_t got = ::read(file.get(), text.data(), text.size());
  return got <= 0 || !is_identity_map(std::string(text.data(), static_cast<std::size_t>(got)));
}

// The kernel ignores the setuid bit where whoever traces us, and so our children, has no privilege.
bool is_traced() {
  const auto status = config::read_file("/proc/self/status");
  return status && *status && (*status)->find("\nTracerPid:\t0\n") == std::string::npos;
}

// What the helper is told and handed, for one way of mounting the root.
struct Transmission {
  LaunchRequest request;
  std::vector<int> descriptors;
  std::vector<UniqueFd> owned;

  void add(UniqueFd fd) {
    descriptors.push_back(fd.get());
    owned.push_back(std::move(fd));
  }
};

// Takes descriptor `index` out of a request: those behind it move up.
void close_gap(LaunchRequest& request, std::uint16_t index) {
  const auto move = [index](std::uint16_t& number) {
    number = static_cast<std::uint16_t>(number > index ? number - 1 : number);
  };
  const auto move_optional = [&](std::optional<std::uint16_t>& number) {
    if (number) {
      move(*number);
    }
  };
  move_optional(request.upper);
  move_optional(request.volume_key);
  move_optional(request.join_net);
  move(request.init);
  move(request.record);
  for (LayerRequest& layer : request.layers) {
    move(layer.descriptor);
  }
  for (MountRequest& mount : request.mounts) {
    move_optional(mount.descriptor);
  }
}

// An optional mount whose source does not exist is left out: the helper takes descriptors only.
void leave_out(plan::LaunchPlan& plan, std::size_t source) {
  std::erase_if(plan.request.mounts, [source](const MountRequest& mount) {
    return mount.descriptor && *mount.descriptor == source;
  });
  plan.sources.erase(plan.sources.begin() + static_cast<std::ptrdiff_t>(source));
  close_gap(plan.request, static_cast<std::uint16_t>(source));
}

Outcome<> open_paths(plan::LaunchPlan& plan) {
  for (std::size_t i = 0; i < plan.sources.size();) {
    plan::Source& source = plan.sources[i];
    if (source.kind == Kind::kPath) {
      // A namespace is entered by an open file: ioctl_ns(2) and setns(2) take no O_PATH.
      const bool is_namespace = plan.request.join_net == i;
      source.fd =
          UniqueFd(::open(source.path.c_str(), is_namespace ? O_RDONLY | O_CLOEXEC | O_NONBLOCK
                                                            : plan::open_flags(source)));
      if (!source.fd.valid()) {
        if (!start::is_optional(plan, i)) {
          return start::source_problem(plan, i, errno);
        }
        message::verbose("skipped the bind of " + source.path + ": " + strerrordesc_np(errno));
        leave_out(plan, i);
        continue;
      }
    }
    ++i;
  }
  return Ok{};
}

// A directory that is only read has no mount points but its own. The helper would clone the source
// of such a bind all the same, and the kernel lets a clone that lies nowhere go only after a grace
// period (RCU) of some milliseconds. What an earlier mount covers is not to be seen from here.
void leave_out_placeless(plan::LaunchPlan& plan) {
  const std::vector<MountRequest>& mounts = plan.request.mounts;
  for (std::size_t i = mounts.size(); i-- > 0;) {
    const MountRequest& mount = mounts[i];
    const bool covered = std::any_of(
        mounts.begin(), mounts.begin() + static_cast<std::ptrdiff_t>(i),
        [&](const MountRequest& earlier) { return path::is_within(mount.target, earlier.target); });
    if (mount.operation != Operation::kBind || (mount.flags & kOptional) == 0 || covered) {
      continue;
    }
    const auto place = open_inside(plan.sources.front().fd.get(), mount.target.c_str(), O_PATH);
    if (!place && place.error().err == ENOENT) {
      message::verbose("skipped a bind: the directory has no " + mount.target);
      leave_out(plan, *mount.descriptor);
    }
  }
}

// As the caller reads the execution control list; the judge reads its own.
ecl::EclConfig read_list(const std::string& site_file) {
  const std::string file = (std::filesystem::path(site_file).parent_path() / "ecl.toml").string();
  const auto text = config::read_file(file);
  if (!text || !*text) {
    return {};
  }
  auto list = ecl::parse_ecl(**text, file);
  return list ? *std::move(list) : ecl::EclConfig();
}

class Launch {
 public:
  Launch(plan::LaunchPlan& plan,
         const config::SiteConfig& site,
         const std::string& site_file,
         start::BlockedSignals& signals)
      : plan_(plan),
        signals_(signals),
        site_(site),
        site_file_(site_file),
        list_(read_list(site_file)) {}

  // Until the helper is gone and the payload runs.
  Outcome<> start() {
    POSTERN_TRY_ASSIGN(limit_, system::DescriptorLimit::for_sources(plan_.sources.size()));
    POSTERN_TRY(open_paths(plan_));
    if (plan_.request.root == RootKind::kDirectory) {
      plan_.request.scratch = Scratch::kNone;  // reason_against_directories
      if (!plan_.request.writable_root) {
        leave_out_placeless(plan_);
      }
    }
    const bool by_kernel = kernel_first();
    const bool may_be_served = by_kernel && admits_server();
    POSTERN_TRY_ASSIGN(Answer answer, attempt(by_kernel));
    if (may_be_served && answer.refusal && answer.refusal->code == RefusalCode::kKernelMount) {
      message::debug("the site does not let the kernel mount this image: serving it in user space");
      POSTERN_TRY_ASSIGN(answer, attempt(false));
    } else if (may_be_served && answer.device_mapper_failed) {
      // A node without device-mapper, or without its verity or crypt target, runs the image all the
      // same.
      message::verbose(answer.fault->what + ": serving the image in user space");
      POSTERN_TRY_ASSIGN(answer, attempt(false));
    }
    if (answer.fault) {
      return *std::move(answer.fault);
    }
    return answer.refusal ? Outcome<>(refusal_problem(plan_, *answer.refusal, site_, site_file_))
                          : Outcome<>(Ok{});
  }

  [[nodiscard]] start::Payload payload() const {
    start::Payload out = {.pid = pid_, .has_reaper = plan_.record.reaper};
    if (!servers_.empty()) {
      out.server = servers_.front().pid;
      out.server_pidfd = servers_.front().pidfd.valid() ? servers_.front().pidfd.get() : -1;
    }
    return out;
  }

  // What went wrong with the image's bytes meanwhile. Of a mount by the kernel only its log knows;
  // that the file was written is all that a user can see.
  // False: the root's server was gone.
  bool report() {
    bool root_was_there = true;
    for (std::size_t i = 0; i < servers_.size(); ++i) {
      const bool was_there = start::leave_server(servers_[i], server_paths_[i]);
      root_was_there = root_was_there && (was_there || i != 0);
    }
    struct stat now{};
    if (sealed_.valid() && ::fstat(sealed_.get(), &now) == 0 &&
        (now.st_size != before_.st_size || now.st_mtim.tv_sec != before_.st_mtim.tv_sec ||
         now.st_mtim.tv_nsec != before_.st_mtim.tv_nsec)) {
      message::error(plan_.image_name +
                     ": the file was changed while the container ran; it is sealed, so reads of "
                     "the changed blocks gave an I/O error");
    } else if (watch_ && watch_->saw_bad_block()) {
      message::error(plan_.image_name +
                     ": a block does not match its seal (the file was changed after it was sealed, "
                     "or the disk is bad); reads of it gave an I/O error");
    }
    return root_was_there;
  }

  void release() {
    if (watch_) {
      watch_->find_mapping();
    }
    plan_.sources.clear();
    plan::drop_keys(plan_);
    plan_.servers.clear();
    for (const int fd : std::exchange(plan_.inherited, {})) {
      ::close(fd);  // the payload's alone: it may wait for the end of a pipe
    }
  }

 private:
  // Whether anything that the caller serves may be a root.
  bool admits_server() const {
    return judge::admits_any_server(site_, list_.activated && !list_.boxes_unsigned());
  }

  // The mounts of the host, if the place of the image matters: for a trusted path, and on an
  // overlay (judge::image_facts), as the root of a node without disks often is.
  judge::MountTable mounts_for(int image) const {
    struct statfs where = {};
    const bool on_overlay = ::fstatfs(image, &where) == 0 && where.f_type == OVERLAYFS_SUPER_MAGIC;
    return on_overlay || !site_.kernel_mount_trusted_paths.empty() ? judge::MountTable::read()
                                                                   : judge::MountTable();
  }

  // Whether to ask for a mount by the kernel. A wrong guess costs one more question.
  bool kernel_first() const {
    if (plan_.request.root != RootKind::kFuse || plan_.servers.empty() ||
        site_.kernel_mount_squashfs == config::KernelMount::kNever) {
      return false;
    }
    // Where limits are active nothing else is admitted.
    if (list_.activated || !admits_server()) {
      return true;
    }
    const plan::ImageServer& root = plan_.servers.front();
    Snapshot bytes(root.image.get());
    // A sealed image may be trusted for its signature, which only the judge verifies.
    if (root.verity) {
      const auto image = sif::read(bytes);
      const auto keyring = std::filesystem::path(site_file_).parent_path() / "keyring";
      if (image && ecl::may_be_trusted(*image, keyring.string())) {
        return true;
      }
    }
    judge::Facts facts;
    facts.ecl_active = list_.activated;
    facts.limits = admit::resolve(site_);
    facts.image = judge::image_facts(root.image.get(), bytes, mounts_for(root.image.get()));
    return facts.image->problem == RefusalCode::kNone && judge::kernel_may_mount(facts, site_);
  }

  // What the helper said. If it has neither, the payload runs.
  struct Answer {
    std::optional<Refusal> refusal;  // the helper or the judge said no
    std::optional<Problem> fault;    // a step of the helper's failed
    bool device_mapper_failed = false;
    bool lost_server = false;  // a server of another start went away: another try may succeed
  };

  // A server of another start may end between being found and being mounted: then another try, at
  // last with a server of our own.
  Outcome<Answer> attempt(bool by_kernel) {
    for (int tries = 0;; ++tries) {
      POSTERN_TRY_ASSIGN(Answer answer,
                         attempt_once(by_kernel, plan_.share && tries < start::kShareAttempts));
      if (!answer.lost_server) {
        return answer;
      }
      start::pause_after_lost_server(tries);
    }
  }

  Outcome<Answer> attempt_once(bool by_kernel, bool share) {
    Outcome<Transmission> transmission = prepare(by_kernel, share);
    Outcome<Reply> reply =
        transmission ? ask(*transmission) : Outcome<Reply>(std::move(transmission).error());
    if (reply && reply->refusal == 0 && reply->err == 0) {
      pid_ = reply->pid;
      return Answer{};
    }
    const bool joined = !servers_.empty() && servers_.front().joined();
    std::string last_words;
    for (start::Server& server : servers_) {
      last_words += start::end_server(server);
    }
    servers_.clear();
    server_paths_.clear();
    watch_.reset();
    sealed_.reset();
    if (!reply) {
      return std::move(reply).error();
    }
    const auto op = static_cast<Op>(reply->op);
    if (op == Op::kCheckVerdict) {
      return Answer{.refusal = Refusal{RefusalCode::kMalformedVerdict, reply->item}};
    }
    if (RefusalCode{reply->refusal} == RefusalCode::kNotSetuid && is_traced()) {
      return Answer{.refusal = Refusal{RefusalCode::kTraced}};
    }
    if (reply->refusal != 0) {
      return Answer{.refusal = Refusal{static_cast<RefusalCode>(reply->refusal), reply->item}};
    }
    start::Failure failure;
    failure.step = op == Op::kCloneSource ? start::Step::kCloneSources : start::Step::kBuild;
    failure.error =
        Error{.err = reply->err, .op = op, .item = static_cast<std::uint16_t>(reply->item)};
    return Answer{.fault = fault(*reply, failure, last_words),
                  .device_mapper_failed = op == Op::kMapping,
                  .lost_server = joined && start::is_lost_server(failure)};
  }

  Problem fault(const Reply& reply,
                const start::Failure& failure,
                const std::string& last_words) const {
    const auto op = static_cast<Op>(reply.op);
    if (op == Op::kLoop) {
      return system_problem("setting up a loop device for " + plan_.image_name, reply.err,
                            "load the module (modprobe loop), or ask for more loop devices");
    }
    if (op == Op::kMapping) {
      return system_problem("mapping " + plan_.image_name + " with device-mapper", reply.err,
                            "load the modules (modprobe dm-verity dm-crypt)");
    }
    if (op == Op::kSpawn) {
      return system_problem("creating the container's process", reply.err);
    }
    return start::payload_problem(plan_, failure, last_words);
  }

  Outcome<Transmission> prepare(bool by_kernel, bool share) {
    Transmission out;
    out.request = plan_.request;
    for (std::size_t i = 0; i < plan_.sources.size(); ++i) {
      const plan::Source& source = plan_.sources[i];
      switch (source.kind) {
        case Kind::kPath:
        case Kind::kImage:
        case Kind::kKey:
          out.descriptors.push_back(source.fd.get());
          break;
        case Kind::kContent: {
          if (i == plan_.request.record) {
            POSTERN_TRY(add_record_socket(out));
            break;
          }
          POSTERN_TRY_ASSIGN(UniqueFd fd, system::make_content_fd("postern", source.content));
          out.add(std::move(fd));
          break;
        }
        case Kind::kInit: {
          POSTERN_TRY_ASSIGN(UniqueFd fd,
                             system::open_libexec_program("postern-init", source.path));
          out.add(std::move(fd));
          break;
        }
        case Kind::kFuse:
          if (by_kernel && i == 0) {
            out.descriptors.push_back(plan_.servers[source.server].image.get());
            break;
          }
          POSTERN_TRY(add_server(source, share, out));
          break;
        case Kind::kSkeleton:
        case Kind::kServed:
          return Problem{.what = "binding from inside an image needs user-namespace mode",
                         .cure = "use --userns"};
      }
    }
    if (by_kernel) {
      out.request.root = RootKind::kImage;
      const plan::ImageServer& root = plan_.servers[plan_.sources.front().server];
      if (root.verity && ::fstat(root.image.get(), &before_) == 0) {
        sealed_ = UniqueFd(::fcntl(root.image.get(), F_DUPFD_CLOEXEC, 3));
        watch_.emplace(sealed_.get());
      }
      const UniqueFd& key = root.key;
      if (key.valid()) {
        out.request.volume_key = static_cast<std::uint16_t>(out.descriptors.size());
        out.descriptors.push_back(key.get());
      }
    }
    return out;
  }

  // The record follows once there is a process to read it: init/handover.h.
  Outcome<> add_record_socket(Transmission& out) {
    std::array<int, 2> pair = {-1, -1};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()) != 0) {
      return system_problem("creating a socket pair", errno);
    }
    to_init_ = UniqueFd(pair[0]);
    out.add(UniqueFd(pair[1]));
    return Ok{};
  }

  // The process waits for the record and has executed nothing of the caller's.
  Outcome<> enter_control_group(pid_t pid) const {
    const UniqueFd& group = plan_.control_group;
    const std::string number = std::to_string(pid);
    return !group.valid() || ::write(group.get(), number.data(), number.size()) > 0
               ? Outcome<>(Ok{})
               : Outcome<>(start::control_group_problem(errno));
  }

  Outcome<> hand_over() {
    POSTERN_TRY_ASSIGN(const UniqueFd record,
                       system::make_content_fd("postern record", init::encode(plan_.record)));
    const Result<> sent = init::hand_over(to_init_.get(), record.get(), plan_.inherited);
    to_init_.reset();
    if (!sent && sent.error().err != EPIPE) {  // EPIPE: the process has ended; wait() says how
      return system_problem("handing open descriptors to the payload", sent.error().err,
                            "close those that it does not need");
    }
    return Ok{};
  }

  Outcome<> add_server(const plan::Source& source, bool share, Transmission& out) {
    POSTERN_TRY_ASSIGN(
        start::Server server,
        start::obtain_server(plan_.servers[source.server], {.ids = {::geteuid(), ::getegid()},
                                                            .share = share && source.server == 0,
                                                            .on_host = true}));
    out.add(std::move(server.device));
    servers_.push_back(std::move(server));
    server_paths_.push_back(plan_.servers[source.server].path);
    return Ok{};
  }

  // Spawns the helper, sends the request, receives the answer, and reaps.
  Outcome<Reply> ask(Transmission& transmission) {
    const auto bytes = encode(transmission.request, transmission.descriptors.size());
    if (!bytes) {
      return start::refusal_problem(plan_, bytes.error());
    }
    POSTERN_TRY_ASSIGN(
        const UniqueFd request,
        system::make_content_fd("postern request",
                                {reinterpret_cast<const char*>(bytes->data()), bytes->size()}));
    std::array<int, 2> pair = {-1, -1};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair.data()) != 0) {
      return system_problem("creating a socket pair", errno);
    }
    const UniqueFd mine(pair[0]);
    UniqueFd theirs(pair[1]);
    // The helper's own deadline and some more: it answers even then.
    const timeval patience{.tv_sec = kHelperDeadlineSeconds + 5, .tv_usec = 0};
    ::setsockopt(mine.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    POSTERN_TRY_ASSIGN(const pid_t helper, spawn(theirs.get()));
    theirs.reset();
    const bool sent = send_request(mine.get(), request.get(), transmission.descriptors).has_value();
    // /dev/fuse among them: while anybody holds it, a dead server looks like a slow one.
    transmission.owned.clear();
    Reply reply{};
    ssize_t got = 0;
    do {
      got = ::recv(mine.get(), &reply, sizeof reply, 0);
      // ECONNRESET: it refused before it read the request; its answer comes next (unix(7)).
    } while (got < 0 && (errno == EINTR || errno == ECONNRESET));
    const bool answered = got == static_cast<ssize_t>(sizeof reply);
    Outcome<> handed = Ok{};
    if (answered && reply.refusal == 0 && reply.err == 0) {
      signals_.hold_all();  // ORDER: before the payload is given what it runs
      handed = enter_control_group(reply.pid);
      if (handed) {
        handed = hand_over();
      }
    }
    const int status = system::wait_for_end(helper);
    if (!handed) {
      return std::move(handed).error();
    }
    if (answered) {
      return reply;
    }
    return helper_died(sent, status);
  }

  static Problem helper_died(bool sent, int status) {
    return Problem{.what = "postern-helper " + system::describe_end(status) +
                           (sent ? " without an answer" : " before it read the request"),
                   .cure = "try again; postern doctor checks the installation"};
  }

  // With the limit on descriptors that the payload is to have: the helper reads its own.
  Outcome<pid_t> spawn(int socket) const {
    const std::string path = system::libexec_program(kHelper);
    const auto pid = system::spawn({.program = path,
                                    .words = {kHelper},
                                    .passed = {{socket, kHelperSocket}},
                                    .environment = std::vector<std::string>{},
                                    .limit = &limit_});
    if (!pid) {
      return system_problem("executing " + path, pid.error().err,
                            "use --userns, or have the installation mended");
    }
    return *pid;
  }

  plan::LaunchPlan& plan_;
  start::BlockedSignals& signals_;
  const config::SiteConfig& site_;
  const std::string& site_file_;
  std::vector<start::Server> servers_;
  std::vector<std::string> server_paths_;
  UniqueFd to_init_;
  UniqueFd sealed_;  // an image with a seal that the kernel has mounted
  struct stat before_{};
  std::optional<SealWatch> watch_;
  pid_t pid_ = -1;
  system::DescriptorLimit limit_;
  ecl::EclConfig list_;
};

bool is_installed() {
  struct stat status{};
  return ::stat(system::libexec_program(kHelper).c_str(), &status) == 0 && status.st_uid == 0 &&
         (status.st_mode & S_ISUID) != 0;
}

}  // namespace

bool is_offered(const config::SiteConfig& site) {
  return site.suid_enabled && ::getuid() != 0 && ::geteuid() != 0 && is_installed();
}

Outcome<> require_settings(const std::string& site_file) {
  struct stat status{};
  if (::getuid() == 0 || ::geteuid() == 0 || !is_installed() ||
      ::stat(site_file.c_str(), &status) == 0) {
    return Ok{};
  }
  return system_problem("the site's settings: " + site_file, errno,
                        "have the file installed, or postern-helper removed; --userns starts "
                        "without the site's settings");
}

std::string reason_against(const config::SiteConfig& site) {
  if (!site.suid_enabled) {
    return "the site's configuration does not enable it (suid.enabled)";
  }
  if (::geteuid() == 0 || ::getuid() == 0) {
    return "root does not need it";
  }
  struct stat status{};
  const std::string helper = system::libexec_program(kHelper);
  if (::stat(helper.c_str(), &status) != 0) {
    return helper + " is not installed";
  }
  if (!is_installed()) {
    return helper + " is not setuid root";
  }
  if (::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 0) {
    return "no_new_privs is set";
  }
  return is_nested() ? "this process is inside a user namespace" : "";
}

// An overlay keeps the rights of who mounts it: in setuid mode, of root. Over a directory it would
// show what the caller may not read, so there is none, and a directory has no mount points but its
// own.
static std::string reason_against_directories(const plan::LaunchPlan& plan) {
  const LaunchRequest& request = plan.request;
  const auto is_directory = [](const LayerRequest& layer) {
    return layer.kind == RootKind::kDirectory;
  };
  if (std::any_of(request.layers.begin(), request.layers.end(), is_directory)) {
    return "an overlay that is a directory needs a user namespace";
  }
  if (request.root != RootKind::kDirectory) {
    return "";
  }
  if (request.scratch == Scratch::kWritable || !request.layers.empty()) {
    return "an overlay over an image that is a directory needs a user namespace";
  }
  for (const MountRequest& mount : request.mounts) {
    struct stat status{};
    const std::string place = plan.sources.front().path + mount.target;
    if ((mount.flags & kOptional) == 0 && ::lstat(place.c_str(), &status) != 0) {
      return "the directory has no " + mount.target +
             " to mount on, and making one over it needs a user namespace";
    }
  }
  return "";
}

std::string reason_against(const plan::LaunchPlan& plan, const config::SiteConfig& site) {
  if (plan.fakeroot != plan::Fakeroot::kNone) {
    return "--fakeroot needs a user namespace";
  }
  if (plan.network) {
    return "a network that " + plan.network->program + " carries needs a user namespace";
  }
  if (plan.request.scratch == Scratch::kDirectory) {
    return "a writable overlay directory needs a user namespace";
  }
  const bool served =
      std::any_of(plan.sources.begin(), plan.sources.end(),
                  [](const plan::Source& source) { return source.kind == Kind::kServed; });
  const bool has_program = std::any_of(
      plan.servers.begin(), plan.servers.end(),
      [](const plan::ImageServer& server) { return server.served == plan::Served::kProgram; });
  const bool has_gocryptfs =
      std::any_of(plan.servers.begin(), plan.servers.end(),
                  [](const plan::ImageServer& server) { return server.gocryptfs; });
  if (has_gocryptfs) {
    return "an image that is encrypted with gocryptfs needs a user namespace";
  }
  if (has_program) {
    return "--fusemount needs a user namespace";
  }
  const bool is_foreign = std::any_of(
      plan.servers.begin(), plan.servers.end(),
      [](const plan::ImageServer& server) { return server.served != plan::Served::kSquashfs; });
  if (is_foreign) {
    return "an ext3 file system is served in user space, which needs a user namespace";
  }
  if (served) {
    return "a bind from inside an image needs a user namespace";
  }
  const std::string directories = reason_against_directories(plan);
  return directories.empty() ? reason_against(site) : directories;
}

Outcome<int> launch(plan::LaunchPlan plan,
                    const config::SiteConfig& site,
                    const std::string& site_file,
                    std::optional<ImageAccounts> accounts,
                    start::Attendant* attendant) {
  POSTERN_TRY(finish_accounts(plan, accounts));
  start::BlockedSignals signals;
  Launch start(plan, site, site_file, signals);
  POSTERN_TRY(start.start());
  accounts.reset();
  const std::string image = plan.image_name;
  start.release();
  const start::Ended ended = start::wait_for_payload(start.payload(), signals, attendant);
  const bool root_was_there = start.report();
  if (ended.server_died || !root_was_there) {
    message::error("image server died: the files of " + image +
                   " were lost to the container while it ran");
  }
  if (attendant != nullptr) {
    attendant->ended(ended.status);
  }
  return ended.status;
}

}  // namespace postern::suid
