#include "frontend/imagebuild/plan.h"

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <sstream>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/container.h"
#include "frontend/imagebuild/directory_source.h"
#include "frontend/imagebuild/host_files.h"
#include "frontend/imagebuild/layers.h"
#include "frontend/message/message.h"
#include "policy/sif/format.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {
namespace {

// Times of the tree never exceed SOURCE_DATE_EPOCH; returns the newest that is left.
std::int64_t clamp_times(Tree& tree, const std::optional<std::int64_t>& epoch) {
  std::int64_t newest = 0;
  for (InodeId id = 0; id < tree.size(); ++id) {
    if (epoch) {
      tree[id].mtime = std::min(tree[id].mtime, *epoch);
    }
    newest = std::max(newest, tree[id].mtime);
  }
  return newest;
}

void fix_permissions(Tree& tree) {
  for (InodeId id = 0; id < tree.size(); ++id) {
    Inode& inode = tree[id];
    if (inode.kind == Kind::kDirectory) {
      inode.mode |= 0700;
    } else if (inode.kind == Kind::kFile) {
      inode.mode |= static_cast<std::uint16_t>(0600 | ((inode.mode & 0111) != 0 ? 0100 : 0));
    }
  }
}

// Seconds since 1970 of an RFC 3339 time; nothing where it is none, or the zero time of Go.
std::optional<std::int64_t> time_of(const std::string& text) {
  std::tm utc{};
  const char* rest = ::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &utc);
  if (rest == nullptr) {
    return std::nullopt;
  }
  const std::time_t seconds = ::timegm(&utc);
  return seconds > 0 ? std::optional<std::int64_t>(seconds) : std::nullopt;
}

Outcome<std::string> read_text(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  std::string text(kMaxDefinition + 1, '\0');
  std::size_t filled = 0;
  while (fd.valid() && filled < text.size()) {
    const ssize_t got = ::read(fd.get(), text.data() + filled, text.size() - filled);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return system_problem("reading '" + path + "'", errno);
    }
    if (got == 0) {
      text.resize(filled);
      return text;
    }
    filled += static_cast<std::size_t>(got);
  }
  return fd.valid() ? Problem{.what = "'" + path + "' is too large"}
                    : system_problem("opening '" + path + "'", errno);
}

Outcome<> add_argument(BuildArguments& out, const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    return Problem{.what = "build argument '" + text + "' is not NAME=VALUE"};
  }
  out[text.substr(0, equals)] = text.substr(equals + 1);
  return {};
}

Outcome<BuildArguments> build_arguments(const BuildOptions& options) {
  BuildArguments out;
  if (!options.build_argument_file.empty()) {
    POSTERN_TRY_ASSIGN(const std::string text, read_text(options.build_argument_file));
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      if (!line.empty() && line.front() != '#') {
        POSTERN_TRY(add_argument(out, line));
      }
    }
  }
  for (const std::string& argument : options.build_arguments) {  // beat the file's
    POSTERN_TRY(add_argument(out, argument));
  }
  return out;
}

Outcome<SourceSpec> spec_of(const Stage& stage, bool& from_nothing) {
  const auto header = [&](const char* key) {
    const auto found = stage.header.find(key);
    return found == stage.header.end() ? std::string() : found->second;
  };
  const std::string bootstrap = header("bootstrap");
  const std::string from = header("from");
  if (header("fingerprints") != "") {
    return Problem{.what = "the header 'Fingerprints' asks for a signed source",
                   .cure = "check it with 'postern verify', then leave the line out"};
  }
  from_nothing = bootstrap == "scratch";
  if (from_nothing) {
    return SourceSpec{};
  }
  if (from.empty()) {
    return Problem{.what = "the definition file has no 'From:'"};
  }
  if (bootstrap == "localimage") {
    return identify_source(from);
  }
  if (bootstrap == "docker-archive" || bootstrap == "oci-archive" || bootstrap == "oci") {
    return identify_source(bootstrap + ":" + from);
  }
  if (bootstrap == "docker" || bootstrap == "library" || bootstrap == "oras" ||
      bootstrap == "shub" || bootstrap == "docker-daemon") {
    const std::string url =
        bootstrap == "docker-daemon" ? bootstrap + ":" + from : bootstrap + "://" + from;
    return identify_source(url);  // says how to get it here
  }
  return Problem{.what = "Bootstrap: " + bootstrap + " is not known",
                 .cure = "localimage, docker-archive, oci, oci-archive and scratch are"};
}

// `--section`.
bool wanted(const BuildOptions& options, std::string_view section) {
  if (options.sections.empty()) {
    return true;
  }
  return std::any_of(options.sections.begin(), options.sections.end(),
                     [&](const std::string& name) { return name == "all" || name == section; });
}

void take_apps(const Stage& stage, const BuildOptions& options, Recipe& recipe) {
  for (const auto& [name, app] : stage.apps) {
    recipe.scripts.apps[name] = {.environment = app.environment,
                                 .runscript = app.run,
                                 .startscript = app.start,
                                 .test = app.test,
                                 .help = app.help,
                                 .labels = app.labels};
    if (wanted(options, "files")) {
      for (FileCopy copy : app.files) {
        // Relative names of %appfiles are below the app.
        const bool absolute = copy.to.starts_with('/');
        copy.to = absolute ? copy.to : "/scif/apps/" + name + "/" + copy.to;
        recipe.files.push_back(std::move(copy));
      }
    }
    if (app.install && wanted(options, "post")) {
      recipe.installs[name] = Program{.text = *app.install};
    }
  }
}

Outcome<Recipe> recipe_of(const Definition& definition, const BuildOptions& options) {
  if (definition.stages.size() > 1) {
    return Problem{.what = "the definition file has several stages",
                   .cure =
                       "build each stage's image from a file of its own, and copy from its sandbox "
                       "with %files"};
  }
  const Stage& stage = definition.stages.back();
  Recipe recipe;
  if (!options.update) {
    POSTERN_TRY_ASSIGN(recipe.spec, spec_of(stage, recipe.from_nothing));
    if (recipe.spec.kind == SourceKind::kDefinition) {
      return Problem{.what = "'" + recipe.spec.path + "' is a definition file, not an image"};
    }
  }
  Scripts& scripts = recipe.scripts;
  scripts.definition = definition.text;
  scripts.runscript = stage.runscript;
  scripts.startscript = stage.startscript;
  scripts.help = stage.help;
  if (wanted(options, "environment")) {
    scripts.environment = stage.environment;
  }
  if (wanted(options, "labels")) {
    scripts.labels = stage.labels;
  }
  if (wanted(options, "test")) {
    scripts.test = stage.test;
    recipe.run_test = stage.test.has_value() && !options.no_test;
  }
  if (wanted(options, "files")) {
    recipe.files = stage.files;
  }
  if (wanted(options, "post")) {
    recipe.post = stage.post;
  }
  take_apps(stage, options, recipe);
  for (const FileCopy& copy : recipe.files) {
    if (!copy.stage.empty()) {
      return Problem{.what = "%files from '" + copy.stage + "': there is no such stage"};
    }
  }
  return recipe;
}

void set_facts(Plan& plan, const Recipe& recipe, const BuildOptions& options) {
  plan.facts.bootstrap = recipe.from_nothing ? "scratch" : bootstrap_name(recipe.spec.kind);
  plan.facts.from = recipe.spec.reference.empty() ? recipe.spec.path
                                                  : recipe.spec.path + ":" + recipe.spec.reference;
  plan.facts.newest = clamp_times(plan.tree, options.epoch);
  plan.facts.time = options.epoch ? options.epoch : time_of(plan.opened.config.created);
  if (!sif::parse_name(options.architecture, plan.facts.architecture) &&
      !sif::parse_name(plan.opened.config.architecture, plan.facts.architecture)) {
    plan.facts.architecture = architecture_of(plan.tree, *plan.opened.source);
    if (plan.facts.architecture == sif::Architecture::kUnknown) {
      plan.facts.architecture = sif::host_architecture();
    }
  }
}

}  // namespace

std::map<std::string, std::string> parse_label_lines(const std::string& text) {
  std::map<std::string, std::string> labels;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t blank = line.find_first_of(" \t");
    if (!line.empty() && line.front() != '#' && blank != 0) {
      const std::size_t value =
          blank == std::string::npos ? blank : line.find_first_not_of(" \t", blank);
      labels[line.substr(0, blank)] =
          value == std::string::npos ? std::string() : line.substr(value);
    }
  }
  return labels;
}

Owners owners_of(const Tree& tree) {
  Owners owners;
  tree.walk([&](const std::string& path, InodeId id) {
    if (tree[id].uid != 0 || tree[id].gid != 0) {
      owners[path] = {tree[id].uid, tree[id].gid};
    }
  });
  return owners;
}

Outcome<Recipe> make_recipe(const BuildOptions& options) {
  POSTERN_TRY_ASSIGN(const SourceSpec spec, identify_source(options.source));
  if (spec.kind != SourceKind::kDefinition) {
    if (options.update) {
      return Problem{.what = "--update needs a definition file, not '" + options.source + "'"};
    }
    if (!options.build_arguments.empty() || !options.build_argument_file.empty()) {
      return Problem{.what = "build arguments are for definition files, not for '" +
                             options.source + "'"};
    }
    Recipe recipe;
    recipe.spec = spec;
    return recipe;
  }
  POSTERN_TRY_ASSIGN(const std::string text, read_text(spec.path));
  POSTERN_TRY_ASSIGN(const BuildArguments arguments, build_arguments(options));
  std::vector<std::string> unused;
  POSTERN_TRY_ASSIGN(const Definition definition, parse_definition(text, arguments, unused));
  if (!unused.empty()) {
    std::string names;
    for (const std::string& name : unused) {
      names += (names.empty() ? "" : ", ") + name;
    }
    if (!options.only_warn_of_unused_arguments) {
      return Problem{.what = "build arguments that the definition file does not use: " + names,
                     .cure = "leave them out, or add --warn-unused-build-args"};
    }
    message::warning("build arguments that the definition file does not use: " + names);
  }
  return recipe_of(definition, options);
}

Outcome<Plan> plan_source(const Recipe& recipe, const BuildOptions& options) {
  Plan plan;
  if (options.update) {
    POSTERN_TRY_ASSIGN(plan.opened.source,
                       directory_source(options.output, {.owners = fakeroot_owners()}));
  } else if (recipe.from_nothing) {
    plan.opened.source = layer_source({}, {});
  } else {
    POSTERN_TRY_ASSIGN(plan.opened, open_source(recipe.spec, {.architecture = options.architecture,
                                                              .temporary = options.temporary,
                                                              .skip_path = options.output,
                                                              .variant = options.variant,
                                                              .pin = options.pin,
                                                              .remote = options.remote.get()}));
  }
  auto with_files = std::make_unique<HostFiles>(std::move(plan.opened.source));
  HostFiles& files = *with_files;
  plan.opened.source = std::move(with_files);
  POSTERN_TRY_ASSIGN(plan.tree, plan.opened.source->index());
  for (const FileCopy& copy : recipe.files) {
    POSTERN_TRY(files.copy(plan.tree, copy.from, copy.to));
  }
  plan.tree.finish();
  if (options.fix_permissions) {
    fix_permissions(plan.tree);
  }
  set_facts(plan, recipe, options);
  POSTERN_TRY_ASSIGN(plan.description,
                     complete_layout(plan.tree, *plan.opened.source, plan.opened.config,
                                     recipe.scripts, plan.facts));
  plan.tree.finish();
  return plan;
}

Outcome<Plan> plan_directory(const std::string& path,
                             const Owners& owners,
                             const Recipe& recipe,
                             const Plan& before,
                             const BuildOptions& options) {
  Plan plan;
  POSTERN_TRY_ASSIGN(plan.opened.source, directory_source(path, {.owners = fakeroot_owners()}));
  POSTERN_TRY_ASSIGN(plan.tree, plan.opened.source->index());
  plan.opened.oci_config = before.description.oci_config.empty() ? before.opened.oci_config
                                                                 : before.description.oci_config;
  plan.tree.finish();
  std::vector<std::pair<InodeId, std::pair<std::uint32_t, std::uint32_t>>> back;
  plan.tree.walk([&](const std::string& name, InodeId id) {
    const auto known = owners.find(name);
    if (known != owners.end() && plan.tree[id].uid == 0 && plan.tree[id].gid == 0) {
      back.emplace_back(id, known->second);
    }
  });
  for (const auto& [id, owner] : back) {
    plan.tree[id].uid = owner.first;
    plan.tree[id].gid = owner.second;
  }
  plan.facts = before.facts;
  plan.facts.newest = clamp_times(plan.tree, options.epoch);
  POSTERN_TRY_ASSIGN(plan.description, complete_layout(plan.tree, *plan.opened.source, {},
                                                       recipe.scripts, plan.facts));
  plan.tree.finish();
  return plan;
}

}  // namespace postern::imagebuild
