// The process that starts an instance and stays beside it, on the host: the parent of the
// instance's process 1, which dies with it. It holds the instance's name, answers for it, and lets
// those in who may join.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "frontend/init/note.h"
#include "frontend/instance/registry.h"
#include "frontend/plan/launch_plan.h"
#include "frontend/start/attendant.h"
#include "policy/path/open_for_change.h"
#include "policy/problem.h"
#include "protocol/base/unique_fd.h"

namespace postern::instance {

// What an instance is started with.
struct Wish {
  std::string name;
  std::string pid_file;  // absolute, or empty
};

// Where the output of an instance goes.
struct Logs {
  std::string out;
  std::string err;
};

// Below the caller's configuration directory, per host and user; the folders are made.
// Error: there is no such directory, or it cannot be written.
Outcome<Logs> logs_for(const std::string& name);

class Monitor final : public start::Attendant {
 public:
  // `report`: a socket to the process that waits for the instance's start.
  Monitor(Wish wish, Logs logs, UniqueFd report);
  ~Monitor() override;

  // Takes the name, leaves the caller's session and turns 0, 1 and 2 to /dev/null and the logs.
  // Changes the plan so that the payload's process becomes the agent.
  Outcome<> prepare(plan::LaunchPlan& plan);

  // 2 is the caller's again: there is a problem to tell.
  void return_to_caller() noexcept;

  void started(pid_t payload) override;

  [[nodiscard]] int events() const override { return events_.get(); }

  void serve() override;
  void ended(int status) override;

 private:
  Outcome<> open_pid_file();
  Outcome<> detach();
  void watch(int fd);
  void let_in();
  void take_report();
  void answer(UniqueFd& client);
  void obey(UniqueFd& client, init::Note note);
  void join(UniqueFd client);
  void describe(int client);
  void has_started();
  void remove_pid_file() noexcept;

  Wish wish_;
  Description description_;
  UniqueFd report_;  // until the start is reported
  UniqueFd caller_;  // the caller's 2, until then
  UniqueFd agent_;
  UniqueFd events_;
  UniqueFd grace_;
  path::NewFile pid_place_;
  UniqueFd pid_file_;
  Claim claim_;
  std::vector<UniqueFd> clients_;
};

}  // namespace postern::instance
