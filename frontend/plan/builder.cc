#include "frontend/plan/builder.h"

#include <algorithm>
#include <iterator>

#include "frontend/plan/bind.h"
#include "frontend/plan/host_path.h"
#include "protocol/limits.h"

namespace postern::plan {
namespace {

// Ancestors before what lies below them, else as they come: a mount hides what was mounted below
// its place before.
std::vector<MountRequest> deeper_last(std::vector<MountRequest> mounts) {
  std::vector<MountRequest> out;
  for (MountRequest& mount : mounts) {
    const auto below = std::find_if(out.begin(), out.end(), [&](const MountRequest& other) {
      return other.target != mount.target && is_within(other.target, mount.target);
    });
    out.insert(below, std::move(mount));
  }
  return out;
}

}  // namespace

Outcome<std::uint16_t> Builder::add_source(Source source) {
  if (plan_.sources.size() >= kMaxDescriptors) {
    return Problem{.what = "this start needs more than " + std::to_string(kMaxDescriptors) +
                           " mounts and files",
                   .cure = "bind a directory that holds the files, not each file"};
  }
  plan_.sources.push_back(std::move(source));
  return static_cast<std::uint16_t>(plan_.sources.size() - 1);
}

Outcome<std::uint16_t> Builder::add_server(ImageServer server,
                                           Source::Kind kind,
                                           std::string path) {
  plan_.servers.push_back(std::move(server));
  return add_source({.kind = kind, .path = std::move(path), .server = plan_.servers.size() - 1});
}

Outcome<> Builder::add(MountRequest mount, std::optional<Source> source, Rank rank) {
  if (mount.target.size() >= kMaxTargetBytes) {
    return Problem{.what = "the destination " + mount.target.substr(0, 64) + "… is longer than " +
                           std::to_string(kMaxTargetBytes - 1) + " bytes"};
  }
  if (source) {
    POSTERN_TRY_ASSIGN(mount.descriptor, add_source(*std::move(source)));
  }
  (rank == Rank::kNamed ? named_ : plan_.request.mounts).push_back(std::move(mount));
  return Ok{};
}

// Directories and files alike: the mount point, should it be missing, becomes what the source is.
Outcome<> Builder::add_bind(const std::string& source,
                            const std::string& target,
                            unsigned flags,
                            Rank rank) {
  flags |= is_directory(source) ? unsigned{kDirectoryTarget} : 0U;
  return add(
      {.operation = Operation::kBind, .flags = static_cast<std::uint8_t>(flags), .target = target},
      Source{.kind = Source::Kind::kPath, .path = source}, rank);
}

Outcome<> Builder::add_own_bind(const std::string& source, const std::string& target, Rank rank) {
  return add({.operation = Operation::kBind, .flags = kDirectoryTarget, .target = target},
             Source{.kind = Source::Kind::kPath, .path = source, .no_links = true}, rank);
}

Outcome<std::string> Builder::work_directory(const std::string& below, mode_t mode) const {
  const std::string named = absolute_path(action().workdir, caller().directory);
  auto made = make_directory(named + below, mode, named.size());
  if (!made) {
    Problem problem = std::move(made).error();
    problem.what = "--workdir " + named + ": " + problem.what;
    return problem;
  }
  return named + below;
}

Outcome<> Builder::add_file(std::string content, const std::string& target, unsigned flags) {
  return add(
      {.operation = Operation::kFile, .flags = static_cast<std::uint8_t>(flags), .target = target},
      Source{.kind = Source::Kind::kContent, .content = std::move(content)});
}

Outcome<> Builder::add_tmpfs(const std::string& target, std::uint32_t mode, Rank rank) {
  return add(
      {.operation = Operation::kTmpfs, .flags = kDirectoryTarget, .target = target, .mode = mode},
      std::nullopt, rank);
}

Outcome<> Builder::add_device(const std::string& path, bool optional) {
  if (optional && !exists(path)) {
    return Ok{};
  }
  return add({.operation = Operation::kDevice,
              .flags = static_cast<std::uint8_t>(optional ? unsigned{kOptional} : 0U),
              .target = path},
             Source{.kind = Source::Kind::kPath, .path = path});
}

Outcome<> Builder::add_system(Operation operation, const char* target, unsigned flags) {
  return add({.operation = operation,
              .flags = static_cast<std::uint8_t>(flags | kDirectoryTarget),
              .target = target},
             std::nullopt);
}

bool Builder::is_wanted(std::string_view name) const {
  return std::find(action().no_mount.begin(), action().no_mount.end(), name) ==
         action().no_mount.end();
}

bool Builder::has_minimal_dev() const {
  return action().contain || site().dev == Dev::kMinimal;
}

bool Builder::is_visible(std::string_view path) const {
  const auto shows = [&](const MountRequest& mount) {
    return mount.operation == Operation::kBind && mount.descriptor &&
           plan_.sources[*mount.descriptor].kind == Source::Kind::kPath &&
           plan_.sources[*mount.descriptor].path == mount.target && is_within(path, mount.target);
  };
  return std::any_of(plan_.request.mounts.begin(), plan_.request.mounts.end(), shows) ||
         std::any_of(named_.begin(), named_.end(), shows);
}

void Builder::order() {
  std::vector<MountRequest> all = deeper_last(std::move(plan_.request.mounts));
  std::vector<MountRequest> named = deeper_last(std::move(named_));
  std::move(named.begin(), named.end(), std::back_inserter(all));
  plan_.request.mounts = std::move(all);
}

}  // namespace postern::plan
