#include <cerrno>
#include <utility>

#include <unistd.h>

#include "frontend/plan/host_path.h"
#include "frontend/plan/planner.h"
#include "protocol/limits.h"

namespace postern::plan {

Outcome<> Planner::root() {
  if (input_.image.directory) {
    plan_.request.root = RootKind::kDirectory;
    POSTERN_TRY(add_source({.kind = Source::Kind::kPath, .path = input_.image.path}));
  } else {
    plan_.request.root = RootKind::kFuse;
    input_.image.root->program = first_program();
    POSTERN_TRY(add_server(*std::move(input_.image.root), Source::Kind::kFuse, {}));
  }
  if (action_.writable && !input_.image.directory) {
    return Problem{.what = "--writable: " + input_.image.path + " is read-only by its nature",
                   .cure =
                       "use --writable-tmpfs or --overlay DIR, or make a directory with "
                       "`postern build --sandbox DIR IMAGE`"};
  }
  plan_.request.writable_root = action_.writable;
  return Ok{};
}

Outcome<> Planner::upper(const std::string& directory, std::string_view option) {
  for (const char* part : {"/upper", "/work"}) {
    auto made = make_directory(directory + part, 0755, directory.size());
    if (!made) {
      Problem problem = std::move(made).error();
      problem.what = std::string(option) + ' ' + directory + ": " + problem.what;
      problem.cure = "a writable overlay needs a directory of yours; add :ro to use it read-only";
      return problem;
    }
  }
  plan_.request.scratch = Scratch::kDirectory;
  POSTERN_TRY_ASSIGN(plan_.request.upper,
                     add_source({.kind = Source::Kind::kPath, .path = directory}));
  return Ok{};
}

Outcome<> Planner::overlay(const std::string& specification, bool& writable_seen) {
  std::string path = specification;
  bool read_only = false;
  if (path.ends_with(":ro") || path.ends_with(":rw")) {
    read_only = path.ends_with(":ro");
    path.resize(path.size() - 3);
  }
  path = absolute_path(path, input_.caller.directory);
  if (!exists(path)) {
    return system_problem("--overlay " + path, errno, "make the directory first: mkdir " + path);
  }
  if (plan_.request.layers.size() >= kMaxLayers) {
    return Problem{.what = "more than " + std::to_string(kMaxLayers) + " overlays"};
  }
  if (!is_directory(path)) {
    POSTERN_TRY_ASSIGN(ImageServer server, open_data_image(path, std::nullopt));
    POSTERN_TRY_ASSIGN(const std::uint8_t descriptor,
                       add_server(std::move(server), Source::Kind::kFuse, {}));
    plan_.request.layers.push_back({.kind = RootKind::kFuse, .descriptor = descriptor});
    return Ok{};
  }
  if (!read_only && ::access(path.c_str(), W_OK) != 0) {
    warn("--overlay " + path + " is not writable by you: it is used read-only");
    read_only = true;
  }
  if (!read_only && !is_own(path)) {
    warn("--overlay " + path +
         " belongs to another user, who could redirect it: it is used read-only");
    read_only = true;
  }
  if (read_only) {
    const std::string upper_part = path + "/upper";
    const bool has_upper = is_directory(upper_part);
    POSTERN_TRY_ASSIGN(const std::uint8_t descriptor,
                       add_source({.kind = Source::Kind::kPath,
                                   .path = has_upper ? upper_part : path,
                                   .no_links = has_upper}));
    plan_.request.layers.push_back({.kind = RootKind::kDirectory, .descriptor = descriptor});
    return Ok{};
  }
  if (std::exchange(writable_seen, true)) {
    return Problem{.what = "--overlay " + path + ": only one overlay can be writable",
                   .cure = "add :ro to all others"};
  }
  return upper(path, "--overlay");
}

Outcome<> Planner::layers() {
  plan_.request.scratch_bytes = input_.site.session_bytes;
  if (action_.writable) {
    if (!action_.overlays.empty()) {
      return Problem{.what = "--writable and --overlay exclude each other",
                     .cure = "--writable writes to the image directory itself; choose one"};
    }
    if (action_.writable_tmpfs) {
      warn("--writable-tmpfs has no effect together with --writable");
    }
    return Ok{};
  }
  if (!input_.site.overlay && (action_.writable_tmpfs || !action_.overlays.empty())) {
    return Problem{.what = "the site's configuration allows no overlay (allow.overlay)"};
  }
  plan_.request.scratch = action_.writable_tmpfs ? Scratch::kWritable : Scratch::kMountPoints;
  for (ImageServer& server : input_.image.overlays) {
    POSTERN_TRY_ASSIGN(const std::uint8_t descriptor,
                       add_server(std::move(server), Source::Kind::kFuse, {}));
    plan_.request.layers.push_back({.kind = RootKind::kFuse, .descriptor = descriptor});
  }
  bool writable_seen = false;
  for (const std::string& specification : action_.overlays) {
    POSTERN_TRY(overlay(specification, writable_seen));
  }
  if (writable_seen && action_.writable_tmpfs) {
    return Problem{.what = "--writable-tmpfs and a writable --overlay exclude each other",
                   .cure = "add :ro to the overlay, or leave --writable-tmpfs out"};
  }
  return Ok{};
}

}  // namespace postern::plan
