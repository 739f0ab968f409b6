#include "frontend/plan/root.h"

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include <unistd.h>

#include "frontend/plan/bind.h"
#include "frontend/plan/host_path.h"
#include "protocol/limits.h"

namespace postern::plan {
namespace {

// A hint for the image's server, which may be wrong.
std::string first_program(const Action& action) {
  switch (action.what) {
    case init::Action::kExec:
      return action.arguments.empty() ? std::string{} : action.arguments[0];
    case init::Action::kShell:
      return action.shell.empty() ? "/bin/bash" : action.shell;
    case init::Action::kRun:
    case init::Action::kTest:
    case init::Action::kStart:
      break;
  }
  return "/bin/sh";
}

Outcome<> add_upper(Builder& builder, const std::string& directory, std::string_view option) {
  LaunchRequest& request = builder.plan().request;
  for (const char* part : {"/upper", "/work"}) {
    auto made = make_directory(directory + part, 0755, directory.size());
    if (!made) {
      Problem problem = std::move(made).error();
      problem.what = std::string(option) + ' ' + directory + ": " + problem.what;
      problem.cure = "a writable overlay needs a directory of yours; add :ro to use it read-only";
      return problem;
    }
  }
  request.scratch = Scratch::kDirectory;
  POSTERN_TRY_ASSIGN(request.upper,
                     builder.add_source({.kind = Source::Kind::kPath, .path = directory}));
  return Ok{};
}

Problem second_writable(const std::string& path) {
  return Problem{.what = "--overlay " + path + ": only one overlay can be writable",
                 .cure = "add :ro to all others"};
}

// A read-only ext3 layer: an overlay, whose files are in its "upper", or a plain file system.
Outcome<> add_ext_layer(Builder& builder, ImageServer server) {
  builder.plan().servers.push_back(std::move(server));
  POSTERN_TRY_ASSIGN(const std::uint16_t descriptor,
                     builder.add_source({.kind = Source::Kind::kServed,
                                         .path = "/upper",
                                         .server = builder.plan().servers.size() - 1,
                                         .or_root = true}));
  builder.plan().request.layers.push_back({.kind = RootKind::kDirectory, .descriptor = descriptor});
  return Ok{};
}

Outcome<> add_layer(Builder& builder, ImageServer server) {
  if (server.served == Served::kExt) {
    return add_ext_layer(builder, std::move(server));
  }
  POSTERN_TRY_ASSIGN(const std::uint16_t descriptor,
                     builder.add_server(std::move(server), Source::Kind::kFuse, {}));
  builder.plan().request.layers.push_back({.kind = RootKind::kFuse, .descriptor = descriptor});
  return Ok{};
}

UnionLayer layer_of(const Source& source, bool may_be_overlay) {
  return source.kind == Source::Kind::kPath
             ? UnionLayer{.server = {}, .path = source.path}
             : UnionLayer{.server = source.server, .path = {}, .may_be_overlay = may_be_overlay};
}

// Root and layers become one union with `upper` as its writable layer: the kernel's overlay does
// not write to what a FUSE program serves.
Outcome<> unite(Builder& builder, ImageServer upper) {
  LaunchPlan& plan = builder.plan();
  ImageServer all = {.served = Served::kUnion, .path = upper.path};
  all.layers.push_back(layer_of(plan.sources.front(), false));
  for (const LayerRequest& layer : plan.request.layers) {
    const Source& source = plan.sources[layer.descriptor];
    all.layers.push_back(layer_of(source, source.kind == Source::Kind::kServed));
  }
  plan.servers.push_back(std::move(upper));
  all.layers.push_back({.server = plan.servers.size() - 1, .path = {}});
  plan.sources.clear();
  plan.request.layers.clear();
  plan.request.root = RootKind::kDirectory;
  plan.request.scratch = Scratch::kNone;
  plan.request.writable_root = true;
  POSTERN_TRY(builder.add_server(std::move(all), Source::Kind::kServed, "/"));
  return Ok{};
}

// `upper`: the one writable ext3 image, once there is one.
Outcome<> add_overlay(Builder& builder,
                      const std::string& specification,
                      bool& writable_seen,
                      std::optional<ImageServer>& upper) {
  LaunchRequest& request = builder.plan().request;
  std::string path = specification;
  bool read_only = false;
  if (path.ends_with(":ro") || path.ends_with(":rw")) {
    read_only = path.ends_with(":ro");
    path.resize(path.size() - 3);
  }
  path = absolute_path(path, builder.caller().directory);
  if (!exists(path)) {
    return path_problem("--overlay " + path, errno, "make the directory first: mkdir " + path);
  }
  if (request.layers.size() >= kMaxLayers) {
    return Problem{.what = "more than " + std::to_string(kMaxLayers) + " overlays"};
  }
  if (!is_directory(path)) {
    POSTERN_TRY_ASSIGN(ImageServer server, open_data_image(path, std::nullopt));
    if (server.served != Served::kExt || read_only) {
      return add_layer(builder, std::move(server));
    }
    POSTERN_TRY_ASSIGN(const bool writable, open_for_writing(server));
    if (!writable) {
      builder.warn("--overlay " + path + " is not writable by you: it is used read-only");
      return add_layer(builder, std::move(server));
    }
    if (std::exchange(writable_seen, true)) {
      return second_writable(path);
    }
    upper = std::move(server);
    return Ok{};
  }
  if (!read_only && ::access(path.c_str(), W_OK) != 0) {
    builder.warn("--overlay " + path + " is not writable by you: it is used read-only");
    read_only = true;
  }
  if (!read_only && !is_own(path)) {
    builder.warn("--overlay " + path +
                 " belongs to another user, who could redirect it: it is used read-only");
    read_only = true;
  }
  if (read_only) {
    const std::string upper_part = path + "/upper";
    const bool has_upper = is_directory(upper_part);
    // The container's own root would be one that nobody can search.
    if (::access(has_upper ? upper_part.c_str() : path.c_str(), R_OK | X_OK) != 0) {
      return path_problem("--overlay " + path, errno, {});
    }
    POSTERN_TRY_ASSIGN(const std::uint16_t descriptor,
                       builder.add_source({.kind = Source::Kind::kPath,
                                           .path = has_upper ? upper_part : path,
                                           .no_links = has_upper}));
    request.layers.push_back({.kind = RootKind::kDirectory, .descriptor = descriptor});
    return Ok{};
  }
  if (std::exchange(writable_seen, true)) {
    return second_writable(path);
  }
  return add_upper(builder, path, "--overlay");
}

// --writable of a SIF: its ext3 overlay partition takes the changes.
Outcome<> add_writable_partition(Builder& builder, std::vector<ImageServer> overlays) {
  for (std::size_t i = 0; i < overlays.size(); ++i) {
    if (overlays[i].served == Served::kExt && i + 1 == overlays.size()) {
      const std::string path = overlays[i].path;
      POSTERN_TRY_ASSIGN(const bool writable, open_for_writing(overlays[i]));
      if (!writable) {
        return Problem{.what = "--writable: " + path + " is not writable by you",
                       .cure = "use --writable-tmpfs, or --overlay with an image of yours"};
      }
      return unite(builder, std::move(overlays[i]));
    }
    POSTERN_TRY(add_layer(builder, std::move(overlays[i])));
  }
  return Ok{};
}

}  // namespace

Outcome<> add_root(Builder& builder, OpenImage& image) {
  const Action& action = builder.action();
  LaunchRequest& request = builder.plan().request;
  if (image.directory) {
    request.root = RootKind::kDirectory;
    POSTERN_TRY(builder.add_source({.kind = Source::Kind::kPath, .path = image.path}));
  } else {
    request.root = RootKind::kFuse;
    image.root->program = first_program(action);
    bool writable = false;
    if (action.writable && image.root->served == Served::kExt) {
      POSTERN_TRY_ASSIGN(writable, open_for_writing(*image.root));
    }
    if (writable) {
      request.root = RootKind::kDirectory;
      request.writable_root = true;
      POSTERN_TRY(builder.add_server(*std::move(image.root), Source::Kind::kServed, "/"));
      return Ok{};
    }
    POSTERN_TRY(builder.add_server(*std::move(image.root), Source::Kind::kFuse, {}));
  }
  const bool has_ext_overlay =
      std::any_of(image.overlays.begin(), image.overlays.end(),
                  [](const ImageServer& one) { return one.served == Served::kExt; });
  if (action.writable && has_ext_overlay) {
    return Ok{};  // add_layers() makes a union with it
  }
  if (action.writable && !image.directory) {
    return Problem{.what = "--writable: " + image.path + " is read-only by its nature",
                   .cure =
                       "use --writable-tmpfs or --overlay DIR, or make a directory with "
                       "`postern build --sandbox DIR IMAGE`"};
  }
  request.writable_root = action.writable;
  return Ok{};
}

Outcome<> add_layers(Builder& builder, std::vector<ImageServer> overlays) {
  const Action& action = builder.action();
  const Site& site = builder.site();
  LaunchRequest& request = builder.plan().request;
  request.scratch_bytes = site.session_bytes;
  if (action.writable) {
    if (!action.overlays.empty()) {
      return Problem{.what = "--writable and --overlay exclude each other",
                     .cure = "--writable writes to the image directory itself; choose one"};
    }
    if (action.writable_tmpfs) {
      builder.warn("--writable-tmpfs has no effect together with --writable");
    }
    return add_writable_partition(builder, std::move(overlays));
  }
  if (!site.overlay && (action.writable_tmpfs || !action.overlays.empty())) {
    return Problem{.what = "the site's configuration allows no overlay (allow.overlay)"};
  }
  request.scratch = action.writable_tmpfs ? Scratch::kWritable : Scratch::kMountPoints;
  for (ImageServer& server : overlays) {
    POSTERN_TRY(add_layer(builder, std::move(server)));
  }
  bool writable_seen = false;
  std::optional<ImageServer> upper;
  for (const std::string& specification : action.overlays) {
    POSTERN_TRY(add_overlay(builder, specification, writable_seen, upper));
  }
  if (writable_seen && action.writable_tmpfs) {
    return Problem{.what = "--writable-tmpfs and a writable --overlay exclude each other",
                   .cure = "add :ro to the overlay, or leave --writable-tmpfs out"};
  }
  return upper ? unite(builder, *std::move(upper)) : Outcome<>(Ok{});
}

}  // namespace postern::plan
