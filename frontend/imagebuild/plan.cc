#include "frontend/imagebuild/plan.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <ctime>
#include <sstream>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/bootstrap_tool.h"
#include "frontend/imagebuild/directory_source.h"
#include "frontend/imagebuild/fingerprints.h"
#include "frontend/imagebuild/host_files.h"
#include "frontend/imagebuild/layers.h"
#include "frontend/message/message.h"
#include "frontend/system/subids.h"
#include "policy/sif/format.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {
namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

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

std::string header_of(const Stage& stage, const char* key) {
  const auto found = stage.header.find(key);
  return found == stage.header.end() ? std::string() : found->second;
}

// "REGISTRY/NAMESPACE/FROM", as far as the first two are given.
std::string docker_name(const Stage& stage) {
  std::string name;
  for (const char* key : {"registry", "namespace", "from"}) {
    const std::string part = header_of(stage, key);
    name += (name.empty() || part.empty() ? "" : "/") + part;
  }
  return name;
}

Outcome<> set_source(const Stage& stage, Recipe& recipe) {
  const std::string bootstrap = lower(header_of(stage, "bootstrap"));
  const std::string from = header_of(stage, "from");
  recipe.from_nothing = bootstrap == "scratch";
  if (recipe.from_nothing) {
    return {};
  }
  if (is_bootstrap_tool(bootstrap)) {
    recipe.tool = bootstrap;
    recipe.header = stage.header;
    return {};
  }
  if (from.empty()) {
    return Problem{.what = "Bootstrap: " + bootstrap + " needs the header 'From:'"};
  }
  std::string text = from;
  if (bootstrap == "docker-archive" || bootstrap == "oci-archive" || bootstrap == "oci") {
    text = bootstrap + ":" + from;
  } else if (bootstrap == "docker") {
    text = "docker://" + docker_name(stage);
  } else if (bootstrap == "library" || bootstrap == "oras" || bootstrap == "shub") {
    text = bootstrap + "://" + from;
  } else if (bootstrap == "docker-daemon") {
    text = bootstrap + ":" + from;
  } else if (bootstrap != "localimage") {
    return Problem{.what = "Bootstrap: " + bootstrap + " is not known",
                   .cure =
                       "localimage, docker, oras, library, docker-archive, oci, oci-archive, "
                       "scratch, debootstrap, yum, dnf, zypper, arch and busybox are"};
  }
  POSTERN_TRY_ASSIGN(recipe.spec, identify_source(text));
  return recipe.spec.kind == SourceKind::kDefinition
             ? Outcome<>(Problem{.what = "'" + from + "' is a definition file, not an image"})
             : Outcome<>();
}

// "A, B": 40 hexadecimal digits each.
Outcome<std::vector<std::string>> fingerprints_of(const Stage& stage) {
  std::vector<std::string> list;
  std::istringstream words(header_of(stage, "fingerprints"));
  for (std::string word; std::getline(words, word, ',');) {
    word.erase(std::remove_if(word.begin(), word.end(),
                              [](unsigned char c) { return std::isspace(c) != 0; }),
               word.end());
    const bool hex = std::all_of(word.begin(), word.end(),
                                 [](unsigned char c) { return std::isxdigit(c) != 0; });
    if (word.size() != 40 || !hex) {
      return Problem{.what =
                         "Fingerprints: '" + word + "' is no fingerprint of 40 hexadecimal digits"};
    }
    list.push_back(lower(word));
  }
  return list;
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
  std::vector<std::pair<std::size_t, std::string>> order;
  for (const auto& [name, app] : stage.apps) {
    order.emplace_back(app.order, name);
  }
  std::sort(order.begin(), order.end());
  for (const auto& [number, name] : order) {
    const App& app = stage.apps.at(name);
    recipe.scripts.apps[name] = {.environment = app.environment,
                                 .runscript = app.run,
                                 .startscript = app.start,
                                 .test = app.test,
                                 .help = app.help,
                                 .labels = app.labels};
    if (wanted(options, "files")) {
      for (FileCopy copy : app.files) {
        // Below the app, whatever they are called.
        copy.to = "/scif/apps/" + name + "/" + (copy.to.empty() ? std::string() : copy.to);
        recipe.files.push_back(std::move(copy));
      }
    }
    if (app.install && wanted(options, "post")) {
      recipe.installs.emplace_back(name, *app.install);
    }
  }
}

Outcome<Recipe> recipe_of_stage(const Stage& stage, const BuildOptions& options, bool last) {
  Recipe recipe;
  recipe.stage = stage.name;
  if (!options.update || !last) {
    POSTERN_TRY(set_source(stage, recipe));
  }
  POSTERN_TRY_ASSIGN(recipe.fingerprints, fingerprints_of(stage));
  Scripts& scripts = recipe.scripts;
  scripts.replace = options.force;
  const auto take = [&](const char* section, const auto& from, auto& to) {
    if (wanted(options, section)) {
      to = from;
    }
  };
  take("runscript", stage.runscript, scripts.runscript);
  take("startscript", stage.startscript, scripts.startscript);
  take("help", stage.help, scripts.help);
  take("environment", stage.environment, scripts.environment);
  take("labels", stage.labels, scripts.labels);
  take("test", stage.test, scripts.test);
  take("files", stage.files, recipe.files);
  take("pre", stage.pre, recipe.pre);
  take("setup", stage.setup, recipe.setup);
  take("post", stage.post, recipe.post);
  recipe.run_test = scripts.test.has_value() && !options.no_test;
  take_apps(stage, options, recipe);
  return recipe;
}

Outcome<Recipe> recipe_of(const Definition& definition, const BuildOptions& options) {
  std::vector<Recipe> stages;
  for (const Stage& stage : definition.stages) {
    const bool last = &stage == &definition.stages.back();
    POSTERN_TRY_ASSIGN(Recipe recipe, recipe_of_stage(stage, options, last));
    recipe.scripts.definition = definition.text;
    stages.push_back(std::move(recipe));
  }
  for (std::size_t i = 0; i < stages.size(); ++i) {
    for (const FileCopy& copy : stages[i].files) {
      const auto earlier = stages.begin() + static_cast<std::ptrdiff_t>(i);
      if (!copy.stage.empty() && std::none_of(stages.begin(), earlier, [&](const Recipe& other) {
            return other.stage == copy.stage;
          })) {
        return Problem{.what = "%files from " + copy.stage + ": there is no such stage before it",
                       .cure = "name the stage with 'Stage: " + copy.stage + "' further up"};
      }
    }
  }
  Recipe image = std::move(stages.back());
  stages.pop_back();
  image.earlier = std::move(stages);
  return image;
}

void set_facts(Plan& plan, const Recipe& recipe, const BuildOptions& options) {
  plan.facts.bootstrap = recipe.from_nothing ? "scratch"
                         : recipe.tool       ? *recipe.tool
                                             : bootstrap_name(recipe.spec.kind);
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

bool Recipe::needs_directory() const {
  const bool from_stage = std::any_of(files.begin(), files.end(),
                                      [](const FileCopy& copy) { return !copy.stage.empty(); });
  return tool || pre || setup || post || !installs.empty() || run_test || from_stage ||
         !earlier.empty();
}

Owners foreign_owners(const Tree& tree) {
  const std::vector<system::IdRange> users = system::own_user_ids();
  const std::vector<system::IdRange> groups = system::own_group_ids();
  Owners owners;
  tree.walk([&](const std::string& path, InodeId id) {
    if (!system::holds_id(users, tree[id].uid) || !system::holds_id(groups, tree[id].gid)) {
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

namespace {

Outcome<std::unique_ptr<Source>> sandbox_source(const BuildOptions& options) {
  return directory_source(options.output, {});
}

// Source and tree, no more.
Outcome<Plan> open_plan(const Recipe& recipe, const BuildOptions& options) {
  Plan plan;
  if (options.update && recipe.spec.path.empty()) {
    POSTERN_TRY_ASSIGN(plan.opened.source, sandbox_source(options));
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
  if (!recipe.fingerprints.empty()) {
    if (plan.opened.files.empty()) {
      return Problem{
          .what = "the header 'Fingerprints' needs a SIF as the source: nothing else is signed"};
    }
    POSTERN_TRY(check_fingerprints(plan.opened.files[0].get(), recipe.fingerprints));
  }
  POSTERN_TRY_ASSIGN(plan.tree, plan.opened.source->index());
  return plan;
}

void settle(Plan& plan, const Recipe& recipe, const BuildOptions& options) {
  plan.tree.finish();
  if (options.fix_permissions) {
    fix_permissions(plan.tree);
  }
  set_facts(plan, recipe, options);
}

}  // namespace

Outcome<Plan> plan_source(const Recipe& recipe, const BuildOptions& options) {
  POSTERN_TRY_ASSIGN(Plan plan, open_plan(recipe, options));
  auto with_files = std::make_unique<HostFiles>(std::move(plan.opened.source));
  HostFiles& files = *with_files;
  plan.opened.source = std::move(with_files);
  for (const FileCopy& copy : recipe.files) {
    POSTERN_TRY(files.copy(plan.tree, copy.from, copy.to));
  }
  settle(plan, recipe, options);
  POSTERN_TRY_ASSIGN(plan.description,
                     complete_layout(plan.tree, *plan.opened.source, plan.opened.config,
                                     recipe.scripts, plan.facts));
  plan.tree.finish();
  return plan;
}

Outcome<Plan> plan_draft(const Recipe& recipe, const BuildOptions& options) {
  POSTERN_TRY_ASSIGN(Plan plan, open_plan(recipe, options));
  settle(plan, recipe, options);
  POSTERN_TRY(prepare_layout(plan.tree, plan.opened.config, recipe.scripts, plan.facts));
  plan.tree.finish();
  return plan;
}

Outcome<Plan> plan_directory(const std::string& path,
                             const Owners& owners,
                             const Recipe& recipe,
                             const Plan* before,
                             const BuildOptions& options) {
  Plan plan;
  POSTERN_TRY_ASSIGN(plan.opened.source, directory_source(path, {}));
  POSTERN_TRY_ASSIGN(plan.tree, plan.opened.source->index());
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
  set_facts(plan, recipe, options);
  if (before != nullptr) {
    plan.facts.time = before->facts.time;
    plan.facts.architecture = before->facts.architecture;
    plan.opened.config = before->opened.config;
    plan.opened.oci_config = before->opened.oci_config;
  }
  POSTERN_TRY_ASSIGN(plan.description,
                     complete_layout(plan.tree, *plan.opened.source, plan.opened.config,
                                     recipe.scripts, plan.facts));
  plan.tree.finish();
  return plan;
}

}  // namespace postern::imagebuild
