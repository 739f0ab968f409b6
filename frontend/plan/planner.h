// The builder of a LaunchPlan: its parts are defined in builder.cc, root.cc, namespaces.cc,
// mounts.cc, files.cc and record.cc.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "frontend/plan/bind.h"
#include "frontend/plan/make_plan.h"

namespace postern::plan {

class Planner {
 public:
  Planner(PlanInput input, std::vector<std::string>& warnings)
      : input_(std::move(input)), action_(input_.action), warnings_(warnings) {}

  Outcome<LaunchPlan> run();

  // --- parts of the request, in the order in which they are executed
  Outcome<> root();
  Outcome<> layers();
  Outcome<> overlay(const std::string& specification, bool& writable_seen);
  Outcome<> upper(const std::string& directory, std::string_view option);
  Outcome<> namespaces();
  void capabilities();
  Outcome<> dev();
  Outcome<> minimal_dev();
  Outcome<> configured_binds();
  Outcome<> kernel_file_systems();
  Outcome<> home();
  Outcome<> tmp();
  Outcome<> scratch();
  Outcome<> cwd();
  Outcome<> files();
  Outcome<> resolv_conf();
  Outcome<> account_file(Source::Merge merge, const char* path);
  Outcome<> libraries();
  Outcome<> user_binds();
  Outcome<> user_bind(const Bind& bind);
  void order();
  void skeleton();
  Outcome<> record();
  [[nodiscard]] std::string first_program() const;
  void fixed_environment(init::LaunchRecord& record);

  // --- building blocks
  Outcome<std::uint8_t> add_source(Source source);
  Outcome<std::uint8_t> add_server(ImageServer server, Source::Kind kind, std::string path);
  Outcome<> add(MountRequest mount, std::optional<Source> source);
  Outcome<> add_bind(const std::string& source, const std::string& target, unsigned flags);
  Outcome<> add_own_bind(const std::string& source, const std::string& target);
  Outcome<std::string> work_directory(const std::string& below, mode_t mode) const;
  Outcome<> add_file(std::string content, const std::string& target, unsigned flags);
  Outcome<> add_tmpfs(const std::string& target, std::uint32_t mode);
  Outcome<> add_device(const std::string& path, bool optional);
  Outcome<> add_system(Operation operation, const char* target, unsigned flags);

  [[nodiscard]] bool is_wanted(std::string_view name) const;
  [[nodiscard]] bool has_minimal_dev() const;

  [[nodiscard]] bool is_root() const { return input_.caller.identity.uid == 0; }

  void warn(std::string text) { warnings_.push_back(std::move(text)); }

  PlanInput input_;
  Action& action_;
  std::vector<std::string>& warnings_;
  LaunchPlan plan_;
  bool is_named_ = false;                  // what is added now was asked for by name
  std::vector<MountRequest> named_;        // … and lies over everything that comes by default
  std::string home_;                       // inside
  std::vector<std::string> visible_;       // host paths bound at the same path inside
  std::vector<std::string> destinations_;  // of user binds, for POSTERN_BIND
};

}  // namespace postern::plan
