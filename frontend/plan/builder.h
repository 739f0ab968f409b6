// What the parts of make_plan() build a LaunchPlan with: the input, and operations that add a
// mount together with the source that it needs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "frontend/plan/launch_plan.h"
#include "frontend/plan/plan_input.h"
#include "policy/problem.h"

namespace postern::plan {

// Mounts that were asked for by name lie over those that come by default.
enum class Rank : std::uint8_t { kDefault, kNamed };

class Builder {
 public:
  // Both references must outlive the builder. `warnings` gets sentences for message::warning.
  Builder(const PlanInput& input, std::vector<std::string>& warnings)
      : input_(input), warnings_(warnings) {}

  [[nodiscard]] const PlanInput& input() const { return input_; }

  [[nodiscard]] const Action& action() const { return input_.action; }

  [[nodiscard]] const Site& site() const { return input_.site; }

  [[nodiscard]] const Caller& caller() const { return input_.caller; }

  LaunchPlan& plan() { return plan_; }

  [[nodiscard]] bool is_root() const { return input_.caller.identity.uid == 0; }

  // False if --no-mount names it.
  [[nodiscard]] bool is_wanted(std::string_view name) const;
  [[nodiscard]] bool has_minimal_dev() const;

  // Whether a bind that was added so far shows `path` of the host at its own path.
  [[nodiscard]] bool is_visible(std::string_view path) const;

  void warn(std::string text) { warnings_.push_back(std::move(text)); }

  [[nodiscard]] std::vector<std::string>& warnings() { return warnings_; }

  // The result is the descriptor's index in the request.
  Outcome<std::uint16_t> add_source(Source source);
  Outcome<std::uint16_t> add_server(ImageServer server, Source::Kind kind, std::string path);

  Outcome<> add(MountRequest mount, std::optional<Source> source, Rank rank = Rank::kDefault);
  Outcome<> add_bind(const std::string& source,
                     const std::string& target,
                     unsigned flags,
                     Rank rank = Rank::kDefault);
  // A directory that work_directory() made: a link that has taken its place since is not followed.
  Outcome<> add_own_bind(const std::string& source,
                         const std::string& target,
                         Rank rank = Rank::kDefault);
  Outcome<> add_file(std::string content, const std::string& target, unsigned flags);
  Outcome<> add_tmpfs(const std::string& target, std::uint32_t mode, Rank rank = Rank::kDefault);
  Outcome<> add_device(const std::string& path, bool optional);
  Outcome<> add_system(Operation operation, const char* target, unsigned flags);

  // Makes the directory `below` in --workdir. The result is its path on the host.
  [[nodiscard]] Outcome<std::string> work_directory(const std::string& below, mode_t mode) const;

  // Brings the mounts into the order in which they are made: what was asked for by name over what
  // comes by default, and among those the deeper destination over the shallower one, in whatever
  // order the options came.
  void order();

 private:
  const PlanInput& input_;
  std::vector<std::string>& warnings_;
  LaunchPlan plan_;                  // request.mounts: of Rank::kDefault, until order()
  std::vector<MountRequest> named_;  // of Rank::kNamed
};

}  // namespace postern::plan
