#include "frontend/userns/launch.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/plan/unlock.h"
#include "frontend/start/failure.h"
#include "frontend/start/foreign_server.h"
#include "frontend/start/image_server.h"
#include "frontend/start/network.h"
#include "frontend/start/program_server.h"
#include "frontend/start/wait.h"
#include "frontend/system/descriptor.h"
#include "frontend/system/libexec.h"
#include "frontend/userns/payload_process.h"
#include "policy/judge/verdict_from_request.h"
#include "protocol/verdict_check.h"

namespace postern::userns {
namespace {

struct Opened {
  std::vector<UniqueFd> owned;   // what this process opened for the payload's
  std::vector<int> descriptors;  // of the request
};

Outcome<Opened> open_descriptors(const plan::LaunchPlan& plan) {
  Opened out;
  for (std::size_t i = 0; i < plan.sources.size(); ++i) {
    const plan::Source& source = plan.sources[i];
    UniqueFd fd;
    switch (source.kind) {
      case plan::Source::Kind::kContent:
        // The record is written by the payload's process, should it need postern-init.
        if (source.merge == plan::Source::Merge::kNone && i != plan.request.record) {
          POSTERN_TRY_ASSIGN(fd, system::make_content_fd("postern", source.content));
        }
        break;
      case plan::Source::Kind::kInit: {
        POSTERN_TRY_ASSIGN(fd, system::open_libexec_program("postern-init", source.path));
        break;
      }
      case plan::Source::Kind::kPath:
      case plan::Source::Kind::kSkeleton:
      case plan::Source::Kind::kFuse:
      case plan::Source::Kind::kServed:
        break;  // the payload's process opens it
      case plan::Source::Kind::kImage:
      case plan::Source::Kind::kKey:
        break;  // the server's: nothing here is mounted by the kernel
    }
    out.descriptors.push_back(fd.valid() ? fd.get() : source.fd.get());
    out.owned.push_back(std::move(fd));
  }
  return out;
}

// A missing source is the most common mistake: found before any process is started. What is only
// optional may be missing.
Outcome<Ok> check_sources(const plan::LaunchPlan& plan) {
  for (std::size_t i = 0; i < plan.sources.size(); ++i) {
    struct stat info = {};
    if (plan.sources[i].kind == plan::Source::Kind::kPath && !start::is_optional(plan, i) &&
        ::stat(plan.sources[i].path.c_str(), &info) != 0) {
      return start::source_problem(plan, i, errno);
    }
  }
  return Ok{};
}

// The same plan as in suid mode, by the same function, checked by the same function.
Outcome<Ok> make_verdict(const plan::LaunchPlan& plan, Verdict& verdict) {
  if (const auto made = judge::verdict_from_request(plan.request, plan.sources.size(), verdict);
      !made) {
    return start::refusal_problem(plan, made.error());
  }
  const Result<Plan> checked = check_verdict(verdict, plan.sources.size(), kNamespaces);
  if (!checked) {
    return Problem{.what = "the plan of this start is malformed (operation " +
                           std::to_string(checked.error().item) + ")",
                   .cure = "this is a bug in postern: please report the command line"};
  }
  return Ok{};
}

class Launch {
 public:
  Launch(plan::LaunchPlan& plan,
         Verdict& verdict,
         Opened& opened,
         const system::DescriptorLimit& limit,
         start::BlockedSignals& signals)
      : plan_(plan),
        verdict_(verdict),
        opened_(opened),
        limit_(limit),
        signals_(signals),
        ids_{::geteuid(), ::getegid()} {}

  // Until the payload runs, with an image server of its own at last.
  Outcome<Ok> start() {
    frontend_ = UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
    if (!frontend_.valid()) {
      return system_problem("opening a pidfd", errno, "Linux 5.14 or newer is needed");
    }
    if (plan_.fakeroot == plan::Fakeroot::kSubordinate) {
      POSTERN_TRY_ASSIGN(user_namespace_, start::make_subordinate_namespace(ids_));
    } else if (plan_.fakeroot == plan::Fakeroot::kAllIds) {
      POSTERN_TRY_ASSIGN(user_namespace_, start::make_all_ids_namespace());
    } else if (plan_.network) {
      // The program that carries the network is in it with capabilities: nobody else may be.
      POSTERN_TRY_ASSIGN(user_namespace_, start::make_single_id_namespace(
                                              ids_, plan_.fakeroot != plan::Fakeroot::kNone));
    }
    if (plan_.network) {
      POSTERN_TRY(network_.begin(*plan_.network, user_namespace_.get()));
    }
    join_network_as_root();
    for (int attempt = 0;; ++attempt) {
      // A namespace of our own cannot be that of a server which others may join, nor the reverse.
      // A payload with capabilities in it would have them over the processes of every other.
      const bool share = plan_.share && !user_namespace_.valid() &&
                         plan_.request.capabilities == 0 && attempt < start::kShareAttempts;
      Outcome<bool> started = try_start(share);
      if (!started) {
        return std::move(started).error();
      }
      if (*started) {
        return Ok{};
      }
      servers_.clear();
      start::pause_after_lost_server(attempt);
      POSTERN_TRY(make_verdict(plan_, verdict_));  // the process had changed it
    }
  }

  [[nodiscard]] start::Payload payload() const {
    start::Payload out = {.pid = pid_, .has_reaper = plan_.record.reaper};
    // A program of the user's may go to the background.
    if (!servers_.empty() && plan_.servers[0].served != plan::Served::kProgram) {
      out.server = servers_[0].pid;
      out.server_pidfd = servers_[0].pidfd.valid() ? servers_[0].pidfd.get() : -1;
    }
    return out;
  }

  void end_network() { network_.end(); }

  // False: the root's server was gone.
  bool leave_servers() {
    bool root_was_there = true;
    // A union before what it lies over.
    for (std::size_t i = servers_.size(); i-- > 0;) {
      if (servers_[i].foreign) {
        start::end_foreign_server(servers_[i]);
      } else {
        root_was_there = start::leave_server(servers_[i], plan_.servers[i].path) || i != 0;
      }
    }
    return root_was_there;
  }

  // Mounts and the rest are for the payload's process alone by now, and a volume key is for the
  // image server's.
  void release() {
    opened_.owned.clear();
    for (start::Server& server : servers_) {
      server.mount_namespace.reset();
      server.user_namespace.reset();
    }
    plan::drop_keys(plan_);
    for (const int fd : std::exchange(plan_.inherited, {})) {
      ::close(fd);  // the payload's alone: it may wait for the end of a pipe
    }
  }

 private:
  // False: the server that we had joined went away; another try.
  Outcome<bool> try_start(bool share) {
    POSTERN_TRY(obtain_servers(share));
    PayloadSetup setup;
    setup.plan = &plan_;
    setup.verdict = &verdict_;
    setup.ids = ids_;
    setup.descriptors = opened_.descriptors;
    setup.user_namespace = user_namespace_.valid() || servers_.empty()
                               ? user_namespace_.get()
                               : servers_[0].user_namespace.get();
    setup.frontend = frontend_.get();
    setup.network = plan_.network ? &network_ : nullptr;
    setup.limit = limit_;
    for (const start::Server& server : servers_) {
      setup.servers.push_back(&server);
    }
    setup.signals = &signals_;
    signals_.hold_all();
    if (start_payload(setup) == 0) {
      pid_ = setup.pid;
      return true;
    }
    signals_.let_end();
    const bool joined = !servers_.empty() && servers_[0].joined();
    std::string last_words;
    for (auto server = servers_.rbegin(); server != servers_.rend(); ++server) {
      if (server->foreign) {
        message::debug("its server said: " + start::end_foreign_server(*server));
      } else {
        last_words += start::end_server(*server);
      }
    }
    if (joined && start::is_lost_server(setup.failure)) {
      return false;
    }
    if (plan_.network) {
      last_words += network_.last_words();
    }
    return start::payload_problem(plan_, setup.failure, last_words);
  }

  // Root's capabilities in a network namespace of the host end with the user namespace of the
  // container: this process goes first, and the payload's is born there. Others fail, and the
  // payload's process tries for itself: a namespace may belong to the one that it is in.
  void join_network_as_root() const noexcept {
    if (plan_.request.join_net) {
      const std::string& path = plan_.sources[*plan_.request.join_net].path;
      const UniqueFd space(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
      if (space.valid()) {
        ::setns(space.get(), CLONE_NEWNET);
      }
    }
  }

  Outcome<start::Server> obtain(const plan::ImageServer& image,
                                const start::ServerOptions& options) {
    switch (image.served) {
      case plan::Served::kSquashfs:
        return start::obtain_server(image, options);
      case plan::Served::kProgram:
        return start::start_program_server(image, options);
      case plan::Served::kExt:
      case plan::Served::kUnion:
        break;
    }
    return start::start_foreign_server(image, servers_, options);
  }

  // All servers of one container live in one user namespace, the first's.
  Outcome<Ok> obtain_servers(bool share) {
    for (std::size_t i = 0; i < plan_.servers.size(); ++i) {
      const int user_namespace = user_namespace_.valid() ? user_namespace_.get()
                                 : i > 0                 ? servers_[0].user_namespace.get()
                                                         : -1;
      const start::ServerOptions options = {.ids = ids_,
                                            .fakeroot = plan_.fakeroot,
                                            .user_namespace = user_namespace,
                                            .share = share && i == 0};
      POSTERN_TRY_ASSIGN(start::Server server, obtain(plan_.servers[i], options));
      servers_.push_back(std::move(server));
    }
    return Ok{};
  }

  plan::LaunchPlan& plan_;
  Verdict& verdict_;
  Opened& opened_;
  const system::DescriptorLimit& limit_;
  start::BlockedSignals& signals_;
  start::Ids ids_;
  UniqueFd frontend_;
  UniqueFd user_namespace_;
  start::NetworkProcess network_;
  std::vector<start::Server> servers_;
  pid_t pid_ = -1;
};

}  // namespace

Outcome<int> launch(plan::LaunchPlan plan, start::Attendant* attendant) {
  POSTERN_TRY(check_sources(plan));
  if (!plan.skeleton.empty() && plan.sources.size() < kMaxDescriptors &&
      plan.request.layers.size() < kMaxLayers) {
    // Right above the root: what other layers hold hides it.
    plan.sources.push_back({.kind = plan::Source::Kind::kSkeleton});
    plan.request.layers.insert(plan.request.layers.begin(),
                               {.kind = RootKind::kFuse,
                                .descriptor = static_cast<std::uint16_t>(plan.sources.size() - 1)});
  }
  plan.request.namespaces |= CLONE_NEWUSER;
  const auto verdict = std::make_unique_for_overwrite<Verdict>();
  POSTERN_TRY(make_verdict(plan, *verdict));
  POSTERN_TRY_ASSIGN(const auto limit, system::DescriptorLimit::for_sources(plan.sources.size()));
  POSTERN_TRY_ASSIGN(Opened opened, open_descriptors(plan));
  start::BlockedSignals signals;
  Launch start(plan, *verdict, opened, limit, signals);
  POSTERN_TRY(start.start());
  start.release();
  const start::Ended ended = start::wait_for_payload(start.payload(), signals, attendant);
  const bool root_was_there = start.leave_servers();
  start.end_network();
  if (ended.server_died || !root_was_there) {
    message::error("image server died: the files of " + plan.image_name +
                   " were lost to the container while it ran");
  }
  if (attendant != nullptr) {
    attendant->ended(ended.status);
  }
  return ended.status;
}

}  // namespace postern::userns
