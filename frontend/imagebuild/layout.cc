#include "frontend/imagebuild/layout.h"

#include <array>
#include <cctype>
#include <ctime>
#include <utility>

#include <elf.h>
#include <nlohmann/json.hpp>

#include "frontend/message/message.h"
#include "policy/json/document.h"

namespace postern::imagebuild {
namespace {

using nlohmann::json;
using Lines = std::map<std::string, std::string>;

constexpr std::uint32_t kLastLayer = ~std::uint32_t{0};
constexpr std::string_view kMeta = ".singularity.d";

// For runtimes that start programs through a script in the image; ours does not read them.
constexpr std::string_view kSourceEnvironment =
    "#!/bin/sh\n"
    "# For container runtimes that start programs through this script.\n"
    "for script in /.singularity.d/env/*.sh; do\n"
    "    if [ -f \"$script\" ]; then\n"
    "        . \"$script\"\n"
    "    fi\n"
    "done\n";

constexpr std::string_view kExecAction = "exec \"$@\"\n";
constexpr std::string_view kRunAction =
    "if [ -x /.singularity.d/runscript ]; then\n"
    "    exec /.singularity.d/runscript \"$@\"\n"
    "fi\n"
    "exec /bin/sh \"$@\"\n";
constexpr std::string_view kShellAction =
    "for shell in \"${SINGULARITY_SHELL:-}\" /bin/bash /bin/sh; do\n"
    "    if [ -n \"$shell\" ] && [ -x \"$shell\" ]; then\n"
    "        exec \"$shell\" \"$@\"\n"
    "    fi\n"
    "done\n"
    "echo 'no shell in this image' >&2\n"
    "exit 1\n";
constexpr std::string_view kStartAction =
    "if [ -x /.singularity.d/startscript ]; then\n"
    "    exec /.singularity.d/startscript \"$@\"\n"
    "fi\n";
constexpr std::string_view kTestAction =
    "if [ -x /.singularity.d/test ]; then\n"
    "    exec /.singularity.d/test \"$@\"\n"
    "fi\n"
    "echo 'no test in this image' >&2\n";

constexpr std::string_view kBaseEnvironment =
    "#!/bin/sh\n"
    "# Sourced before what the image sets.\n";
constexpr std::string_view kLastEnvironment =
    "#!/bin/sh\n"
    "# Defaults for what the image did not set.\n"
    "export PATH=\"${PATH:-\"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"}\"\n"
    "export LD_LIBRARY_PATH=\"${LD_LIBRARY_PATH:-\"/.singularity.d/libs\"}\"\n";
// `run --app`: this application's variables, programs, libraries and environment.
constexpr std::string_view kAppEnvironment =
    "#!/bin/sh\n"
    "# The environment of the application that --app names.\n"
    "postern_app=\"${APPTAINER_APPNAME:-${SINGULARITY_APPNAME:-}}\"\n"
    "if [ -n \"$postern_app\" ] && [ -d \"/scif/apps/$postern_app\" ]; then\n"
    "    export SCIF_APPS=/scif/apps\n"
    "    export SCIF_APPROOT=\"/scif/apps/$postern_app\"\n"
    "    export PATH=\"$SCIF_APPROOT:$PATH\"\n"
    "    if [ -d \"$SCIF_APPROOT/bin\" ]; then\n"
    "        export PATH=\"$SCIF_APPROOT/bin:$PATH\"\n"
    "    fi\n"
    "    if [ -d \"$SCIF_APPROOT/lib\" ]; then\n"
    "        export LD_LIBRARY_PATH=\"$SCIF_APPROOT/lib:$LD_LIBRARY_PATH\"\n"
    "    fi\n"
    "    if [ -f \"$SCIF_APPROOT/scif/env/01-base.sh\" ]; then\n"
    "        . \"$SCIF_APPROOT/scif/env/01-base.sh\"\n"
    "    fi\n"
    "    if [ -f \"$SCIF_APPROOT/scif/env/90-environment.sh\" ]; then\n"
    "        . \"$SCIF_APPROOT/scif/env/90-environment.sh\"\n"
    "    fi\n"
    "fi\n"
    "unset postern_app\n";
constexpr std::string_view kNoEnvironment =
    "#!/bin/sh\n"
    "# The %environment section of a definition file comes here.\n";
constexpr std::string_view kNoStartscript =
    "#!/bin/sh\n"
    "# The %startscript section of a definition file comes here.\n";

// Puts files of the build's own into the tree.
class Additions {
 public:
  Additions(Tree& tree, std::int64_t time) : tree_(tree), time_(time) {}

  Outcome<> directory(const std::string& path, std::uint16_t mode) {
    Inode inode;
    inode.kind = Kind::kDirectory;
    inode.mode = mode;
    return put_missing(path, std::move(inode));
  }

  Outcome<> file(const std::string& path, std::uint16_t mode, std::string text) {
    return put_missing(path, file_inode(mode, std::move(text)));
  }

  Outcome<> link(const std::string& path, std::string target) {
    Inode inode;
    inode.kind = Kind::kSymlink;
    inode.origin = Origin::kLiteral;
    inode.mode = 0777;
    inode.target = std::move(target);
    return put_missing(path, std::move(inode));
  }

  // Whatever stands there.
  Outcome<> replace(const std::string& path, std::uint16_t mode, std::string text) {
    return put(path, file_inode(mode, std::move(text)));
  }

 private:
  static Inode file_inode(std::uint16_t mode, std::string text) {
    Inode inode;
    inode.kind = Kind::kFile;
    inode.mode = mode;
    inode.origin = Origin::kLiteral;
    inode.size = text.size();
    inode.captured = std::move(text);
    return inode;
  }

  Outcome<> put_missing(const std::string& path, Inode inode) {
    return tree_.find_id(path, false) != Tree::kNone ? Outcome<>() : put(path, std::move(inode));
  }

  Outcome<> put(const std::string& path, Inode inode) {
    inode.mtime = time_;
    POSTERN_TRY_ASSIGN(const std::vector<std::string> components, split_path(path));
    POSTERN_TRY(tree_.put(components, std::move(inode), kLastLayer));
    return {};
  }

  Tree& tree_;
  std::int64_t time_;
};

bool is_name(std::string_view name) {
  if (name.empty() || (std::isdigit(static_cast<unsigned char>(name[0])) != 0)) {
    return false;
  }
  for (const char c : name) {
    if (c != '_' && std::isalnum(static_cast<unsigned char>(c)) == 0) {
      return false;
    }
  }
  return true;
}

std::string in_double_quotes(std::string_view value) {
  std::string text = "\"";
  for (const char c : value) {
    if (c == '\\' || c == '"' || c == '$' || c == '`') {
      text += '\\';
    }
    text += c;
  }
  return text + '"';
}

std::string in_single_quotes(std::string_view word) {
  std::string text = "'";
  for (const char c : word) {
    text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return text + '\'';
}

std::string with_interpreter(std::string text) {
  return text.starts_with("#!") ? text : "#!/bin/sh\n\n" + std::move(text);
}

std::string build_date(std::int64_t time) {
  static constexpr std::array kDays = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                       "Thursday", "Friday", "Saturday"};
  static constexpr std::array kMonths = {"January",   "February", "March",    "April",
                                         "May",       "June",     "July",     "August",
                                         "September", "October",  "November", "December"};
  const std::time_t seconds = time;
  std::tm utc{};
  if (::gmtime_r(&seconds, &utc) == nullptr) {
    return std::to_string(time);
  }
  return std::string(kDays.at(static_cast<std::size_t>(utc.tm_wday))) + "_" +
         std::to_string(utc.tm_mday) + "_" + kMonths.at(static_cast<std::size_t>(utc.tm_mon)) +
         "_" + std::to_string(utc.tm_year + 1900) + "_" + std::to_string(utc.tm_hour) + ":" +
         std::to_string(utc.tm_min) + ":" + std::to_string(utc.tm_sec) + "_UTC";
}

// Bytes that are not UTF-8 become U+FFFD: JSON has no others.
std::string dumped(const json& value, int indent) {
  return value.dump(indent, ' ', false, json::error_handler_t::replace);
}

Outcome<Lines> labels_of(Tree& tree,
                         Source& source,
                         const ImageConfig& config,
                         const Scripts& scripts,
                         const Facts& facts) {
  Lines labels;
  POSTERN_TRY_ASSIGN(const std::optional<std::string> present,
                     file_text(tree, source, "/.singularity.d/labels.json"));
  if (present) {
    const json parsed = postern::json::parse_document(*present);
    if (parsed.is_object()) {
      for (const auto& [name, value] : parsed.items()) {
        labels[name] = value.is_string() ? value.get<std::string>() : dumped(value, -1);
      }
    } else {
      message::warning("/.singularity.d/labels.json of the source is not a JSON object: replaced");
    }
  }
  for (const auto& [name, value] : config.labels) {
    labels[name] = value;
  }
  labels["org.label-schema.schema-version"] = "1.0";
  labels["org.label-schema.build-arch"] = std::string(sif::name_of(facts.architecture));
  if (facts.time) {
    labels["org.label-schema.build-date"] = build_date(*facts.time);
  }
  if (!facts.bootstrap.empty()) {
    labels["org.label-schema.usage.singularity.deffile.bootstrap"] = facts.bootstrap;
    labels["org.label-schema.usage.singularity.deffile.from"] = facts.from;
  }
  if (scripts.help) {
    labels["org.label-schema.usage"] = "/.singularity.d/runscript.help";
  }
  for (const auto& [name, value] : scripts.built_labels) {
    labels[name] = value;
  }
  for (const auto& [name, value] : scripts.labels) {
    const auto [label, added] = labels.try_emplace(name, value);
    if (added || label->second == value) {
      continue;
    }
    if (scripts.replace) {
      label->second = value;
    } else {
      message::warning("label " + name + " of the source is kept: --force replaces it");
    }
  }
  return labels;
}

// The environment of the source first, so that the definition's can build on it and beat it.
Outcome<> add_environment(Additions& add, Tree& tree, Source& source, const Scripts& scripts) {
  const std::string path = std::string(kMeta) + "/env/90-environment.sh";
  if (scripts.environment) {
    POSTERN_TRY_ASSIGN(const std::optional<std::string> present,
                       file_text(tree, source, "/" + path));
    std::string text =
        present && *present != kNoEnvironment ? *present : std::string("#!/bin/sh\n");
    text += text.ends_with('\n') ? "" : "\n";
    POSTERN_TRY(add.replace(path, 0755, text + *scripts.environment));
  }
  return add.file(path, 0755, std::string(kNoEnvironment));
}

Outcome<> add_help(Additions& add, Tree& tree, Source& source, const Scripts& scripts) {
  if (!scripts.help) {
    return {};
  }
  const std::string path = std::string(kMeta) + "/runscript.help";
  POSTERN_TRY_ASSIGN(const std::optional<std::string> present, file_text(tree, source, "/" + path));
  if (present && *present != *scripts.help && !scripts.replace) {
    message::warning("the help text of the source is kept: --force replaces it");
    return {};
  }
  return add.replace(path, 0644, *scripts.help);
}

// The definition file of the source goes to bootstrap_history/ApptainerN, with the next free N.
Outcome<> keep_definition(Additions& add, Tree& tree, Source& source) {
  const std::string folder = std::string(kMeta) + "/bootstrap_history";
  POSTERN_TRY_ASSIGN(const std::optional<std::string> present,
                     file_text(tree, source, "/" + std::string(kMeta) + "/Singularity"));
  if (!present) {
    return {};
  }
  std::size_t number = 0;
  while (tree.find_id("/" + folder + "/Apptainer" + std::to_string(number)) != Tree::kNone) {
    ++number;
  }
  POSTERN_TRY(add.directory(folder, 0755));
  return add.file(folder + "/Apptainer" + std::to_string(number), 0644, *present);
}

Outcome<> add_mount_points(Additions& add) {
  static constexpr std::array<std::pair<std::string_view, std::uint16_t>, 13> kDirectories = {{
      {"dev", 0755},
      {"proc", 0755},
      {"root", 0700},
      {"sys", 0755},
      {"home", 0755},
      {"tmp", 01777},
      {"var", 0755},
      {"var/tmp", 01777},
      {"etc", 0755},
      {".singularity.d", 0755},
      {".singularity.d/libs", 0755},
      {".singularity.d/env", 0755},
      {".singularity.d/actions", 0755},
  }};
  for (const auto& [path, mode] : kDirectories) {
    POSTERN_TRY(add.directory(std::string(path), mode));
  }
  POSTERN_TRY(add.file("etc/hosts", 0644, ""));
  return add.file("etc/resolv.conf", 0644, "");
}

// Environment and program of an OCI image.
Outcome<> add_config(Additions& add, const ImageConfig& config) {
  if (config.raw.empty()) {
    return {};
  }
  const std::string meta = std::string(kMeta) + "/";
  POSTERN_TRY(add.replace(meta + "env/10-docker2singularity.sh", 0755,
                          environment_script(config.environment)));
  return add.replace(meta + "runscript", 0755, oci_runscript(config.entrypoint, config.command));
}

Outcome<> add_scripts(Additions& add, const ImageConfig& config, const Scripts& scripts) {
  const auto meta = [](std::string_view name) {
    return std::string(kMeta) + "/" + std::string(name);
  };
  POSTERN_TRY(add.file(meta("env/01-base.sh"), 0755, std::string(kBaseEnvironment)));
  POSTERN_TRY(add.file(meta("env/99-base.sh"), 0755, std::string(kLastEnvironment)));
  POSTERN_TRY(add_config(add, config));
  const std::array<std::pair<const char*, const std::optional<std::string>*>, 3> sections = {
      {{"runscript", &scripts.runscript},
       {"startscript", &scripts.startscript},
       {"test", &scripts.test}}};
  for (const auto& [name, text] : sections) {
    if (*text) {
      POSTERN_TRY(add.replace(meta(name), 0755, with_interpreter(**text)));
    }
  }
  POSTERN_TRY(add.file(meta("runscript"), 0755, oci_runscript({}, {})));
  POSTERN_TRY(add.file(meta("startscript"), 0755, std::string(kNoStartscript)));
  static constexpr std::array<std::pair<const char*, std::string_view>, 5> kActions = {
      {{"exec", kExecAction},
       {"run", kRunAction},
       {"shell", kShellAction},
       {"start", kStartAction},
       {"test", kTestAction}}};
  for (const auto& [name, body] : kActions) {
    POSTERN_TRY(add.file(meta("actions/") + name, 0755,
                         std::string(kSourceEnvironment) + std::string(body)));
  }
  static constexpr std::array<std::pair<const char*, const char*>, 6> kLinks = {
      {{"singularity", ".singularity.d/runscript"},
       {".run", ".singularity.d/actions/run"},
       {".exec", ".singularity.d/actions/exec"},
       {".test", ".singularity.d/actions/test"},
       {".shell", ".singularity.d/actions/shell"},
       {"environment", ".singularity.d/env/90-environment.sh"}}};
  for (const auto& [path, target] : kLinks) {
    POSTERN_TRY(add.link(path, target));
  }
  return {};
}

// A name in a variable: what a shell does not take becomes _.
std::string variable_part(std::string_view name) {
  std::string part(name);
  for (char& c : part) {
    c = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' ? c : '_';
  }
  return part;
}

// env/01-base.sh of an app: where it is (the variables of the Scientific Filesystem).
std::string app_environment(const std::string& name) {
  const std::string root = "/scif/apps/" + name;
  const std::string data = "/scif/data/" + name;
  std::string text = "#!/bin/sh\n";
  for (const auto& [variable, value] :
       std::to_array<std::pair<const char*, std::string>>({{"SCIF_APPNAME", name},
                                                           {"SCIF_APPROOT", root},
                                                           {"SCIF_APPMETA", root + "/scif"},
                                                           {"SCIF_DATA", "/scif/data"},
                                                           {"SCIF_APPDATA", data},
                                                           {"SCIF_APPINPUT", data + "/input"},
                                                           {"SCIF_APPOUTPUT", data + "/output"}})) {
    text += std::string("export ") + variable + "=" + in_double_quotes(value) + "\n";
  }
  return text;
}

// env/94-appsbase.sh of the image: where each app is.
std::string apps_environment(const std::map<std::string, AppScripts>& apps) {
  std::string text = "#!/bin/sh\n";
  for (const auto& [name, app] : apps) {
    const std::string part = variable_part(name);
    const std::string root = "/scif/apps/" + name;
    const auto set = [&](bool there, const char* variable, const std::string& value) {
      if (there) {
        text += std::string("export SCIF_") + variable + "_" + part + "=" +
                in_double_quotes(value) + "\n";
      }
    };
    set(true, "APPDATA", "/scif/data/" + name);
    set(true, "APPMETA", root + "/scif");
    set(true, "APPROOT", root);
    set(true, "APPBIN", root + "/bin");
    set(true, "APPLIB", root + "/lib");
    set(app.environment.has_value(), "APPENV", root + "/scif/env/90-environment.sh");
    set(!app.labels.empty(), "APPLABELS", root + "/scif/labels.json");
    set(app.runscript.has_value(), "APPRUN", root + "/scif/runscript");
    set(app.startscript.has_value(), "APPSTART", root + "/scif/startscript");
  }
  return text;
}

// /scif/apps/NAME and /scif/data/NAME, as the Scientific Filesystem has them.
Outcome<> add_app_folders(Additions& add, const std::map<std::string, AppScripts>& apps) {
  for (const auto& [name, app] : apps) {
    const std::string root = "scif/apps/" + name;
    for (const std::string& folder :
         {std::string("scif"), std::string("scif/apps"), std::string("scif/data"), root,
          root + "/bin", root + "/lib", root + "/scif", root + "/scif/env", "scif/data/" + name,
          "scif/data/" + name + "/input", "scif/data/" + name + "/output"}) {
      POSTERN_TRY(add.directory(folder, 0755));
    }
    POSTERN_TRY(add.replace(root + "/scif/env/01-base.sh", 0755, app_environment(name)));
  }
  return {};
}

Outcome<> add_apps(Additions& add, const std::map<std::string, AppScripts>& apps) {
  POSTERN_TRY(add_app_folders(add, apps));
  if (!apps.empty()) {
    POSTERN_TRY(
        add.replace(std::string(kMeta) + "/env/94-appsbase.sh", 0755, apps_environment(apps)));
    POSTERN_TRY(
        add.file(std::string(kMeta) + "/env/95-apps.sh", 0755, std::string(kAppEnvironment)));
  }
  for (const auto& [name, app] : apps) {
    const std::string root = "scif/apps/" + name;
    const std::array<std::pair<const char*, const std::optional<std::string>*>, 4> scripts = {
        {{"/scif/runscript", &app.runscript},
         {"/scif/startscript", &app.startscript},
         {"/scif/test", &app.test},
         {"/scif/env/90-environment.sh", &app.environment}}};
    for (const auto& [path, text] : scripts) {
      if (*text) {
        POSTERN_TRY(add.replace(root + path, 0755, with_interpreter(**text)));
      }
    }
    if (app.help) {
      POSTERN_TRY(add.replace(root + "/scif/runscript.help", 0644, *app.help));
    }
    json labels(app.labels);
    labels["SCIF_APP_NAME"] = name;
    POSTERN_TRY(add.replace(root + "/scif/labels.json", 0644, dumped(labels, 1) + "\n"));
  }
  return {};
}

// One attribute of the inspect document from one file, left out where the file is not there.
Outcome<> describe_file(
    json& out, const char* key, const Tree& tree, Source& source, const std::string& path) {
  POSTERN_TRY_ASSIGN(const std::optional<std::string> text, file_text(tree, source, path));
  if (text) {
    out[key] = *text;
  }
  return {};
}

Outcome<> describe_environment(json& out,
                               const Tree& tree,
                               Source& source,
                               const std::string& folder) {
  const InodeId directory = tree.find_id(folder);
  json scripts = json::object();
  if (directory != Tree::kNone && tree[directory].kind == Kind::kDirectory) {
    for (const auto& [name, entry] : *tree[directory].children) {
      if (name.ends_with(".sh")) {
        POSTERN_TRY(describe_file(scripts, name.c_str(), tree, source, folder + "/" + name));
      }
    }
  }
  json paths = json::object();
  for (const auto& [name, text] : scripts.items()) {
    paths[folder + "/" + name] = text;
  }
  if (!paths.empty()) {
    out["environment"] = std::move(paths);
  }
  return {};
}

Outcome<> describe_labels(json& out, const Tree& tree, Source& source, const std::string& path) {
  POSTERN_TRY_ASSIGN(const std::optional<std::string> text, file_text(tree, source, path));
  if (text) {
    json parsed = postern::json::parse_document(*text);
    if (parsed.is_object()) {
      out["labels"] = std::move(parsed);
    }
  }
  return {};
}

Outcome<> describe_apps(json& attributes, const Tree& tree, Source& source) {
  const InodeId apps = tree.find_id("/scif/apps");
  if (apps == Tree::kNone || tree[apps].kind != Kind::kDirectory) {
    return {};
  }
  json all = json::object();
  for (const auto& [name, entry] : *tree[apps].children) {
    const std::string folder = "/scif/apps/" + name + "/scif";
    const InodeId there = tree.find_id(folder);
    if (there == Tree::kNone || tree[there].kind != Kind::kDirectory) {
      continue;
    }
    json app = json::object();
    POSTERN_TRY(describe_environment(app, tree, source, folder + "/env"));
    POSTERN_TRY(describe_labels(app, tree, source, folder + "/labels.json"));
    POSTERN_TRY(describe_file(app, "runscript", tree, source, folder + "/runscript"));
    POSTERN_TRY(describe_file(app, "startscript", tree, source, folder + "/startscript"));
    POSTERN_TRY(describe_file(app, "test", tree, source, folder + "/test"));
    POSTERN_TRY(describe_file(app, "helpfile", tree, source, folder + "/runscript.help"));
    all[name] = std::move(app);
  }
  attributes["apps"] = std::move(all);
  return {};
}

Outcome<std::string> inspect_document(const Tree& tree, Source& source) {
  json attributes = json::object();
  const std::string meta = "/" + std::string(kMeta) + "/";
  POSTERN_TRY(describe_labels(attributes, tree, source, meta + "labels.json"));
  POSTERN_TRY(describe_file(attributes, "deffile", tree, source, meta + "Singularity"));
  POSTERN_TRY(describe_file(attributes, "runscript", tree, source, meta + "runscript"));
  POSTERN_TRY(describe_file(attributes, "startscript", tree, source, meta + "startscript"));
  POSTERN_TRY(describe_file(attributes, "test", tree, source, meta + "test"));
  POSTERN_TRY(describe_file(attributes, "helpfile", tree, source, meta + "runscript.help"));
  POSTERN_TRY(describe_environment(attributes, tree, source, "/" + std::string(kMeta) + "/env"));
  POSTERN_TRY(describe_apps(attributes, tree, source));
  const json document = {{"data", {{"attributes", std::move(attributes)}}}, {"type", "container"}};
  return dumped(document, 1) + "\n";
}

}  // namespace

std::string environment_script(const std::vector<std::string>& environment) {
  std::string script = "#!/bin/sh\n# Environment of the OCI image.\n";
  for (const std::string& setting : environment) {
    const std::size_t equals = setting.find('=');
    const std::string name = setting.substr(0, equals);
    if (!is_name(name)) {
      message::warning("the image's variable '" + name +
                       "' has no name that a shell takes: left out");
      continue;
    }
    const std::string value =
        in_double_quotes(equals == std::string::npos ? std::string() : setting.substr(equals + 1));
    // The caller's value goes first, except for PATH, which would lead to the host's directories.
    script += name == "PATH" ? "export PATH=" + value + "\n"
                             : "export " + name + "=\"${" + name + ":-" + value + "}\"\n";
  }
  return script;
}

std::string oci_runscript(const std::vector<std::string>& entrypoint,
                          const std::vector<std::string>& command) {
  std::string script = "#!/bin/sh\n# ENTRYPOINT and CMD of the image.\n";
  const std::vector<std::string> shell = {"/bin/sh"};
  const std::vector<std::string>& program =
      entrypoint.empty() && command.empty() ? shell : entrypoint;
  if (!command.empty()) {
    script += "[ $# -gt 0 ] || set --";
    for (const std::string& word : command) {
      script += " " + in_single_quotes(word);
    }
    script += "\n";
  }
  script += "exec";
  for (const std::string& word : program) {
    script += " " + in_single_quotes(word);
  }
  return script + " \"$@\"\n";
}

Outcome<std::optional<std::string>> file_text(const Tree& tree,
                                              Source& source,
                                              std::string_view path) {
  const InodeId id = tree.find_id(path);
  if (id == Tree::kNone || tree[id].kind != Kind::kFile || tree[id].size > kMaxCaptured) {
    return std::optional<std::string>();
  }
  if (tree[id].origin == Origin::kLiteral || tree[id].size == tree[id].captured.size()) {
    return std::optional<std::string>(tree[id].captured);
  }
  POSTERN_TRY_ASSIGN(std::string text, source.head(tree, id, kMaxCaptured));
  // A source that captured less than the whole has nothing to show.
  return text.size() == tree[id].size ? std::optional<std::string>(std::move(text)) : std::nullopt;
}

sif::Architecture elf_architecture(std::string_view head) {
  if (head.size() < 20 || !head.starts_with(ELFMAG)) {
    return sif::Architecture::kUnknown;
  }
  const bool big = head[EI_DATA] == ELFDATA2MSB;
  const bool wide = head[EI_CLASS] == ELFCLASS64;
  const auto low = static_cast<unsigned char>(head[big ? 19 : 18]);
  const auto high = static_cast<unsigned char>(head[big ? 18 : 19]);
  switch (low | high << 8) {
    case EM_386:
      return sif::Architecture::k386;
    case EM_X86_64:
      return sif::Architecture::kAmd64;
    case EM_ARM:
      return sif::Architecture::kArm;
    case EM_AARCH64:
      return sif::Architecture::kArm64;
    case EM_PPC64:
      return big ? sif::Architecture::kPpc64 : sif::Architecture::kPpc64le;
    case EM_MIPS:
      return wide ? (big ? sif::Architecture::kMips64 : sif::Architecture::kMips64le)
                  : (big ? sif::Architecture::kMips : sif::Architecture::kMipsle);
    case EM_S390:
      return sif::Architecture::kS390x;
    case EM_RISCV:
      return sif::Architecture::kRiscv64;
    case 258:  // EM_LOONGARCH
      return sif::Architecture::kLoong64;
    default:
      return sif::Architecture::kUnknown;
  }
}

sif::Architecture architecture_of(const Tree& tree, Source& source) {
  constexpr int kMaxPrograms = 256;  // looked at; a source may have to open each
  static constexpr std::array kUsual = {"/bin/sh",      "/bin/bash", "/bin/busybox",
                                        "/usr/bin/env", "/bin/ls",   "/sbin/init"};
  const auto look = [&](InodeId id) {
    const Inode& inode = tree[id];
    if (inode.kind != Kind::kFile || inode.origin == Origin::kLiteral || inode.size < 20 ||
        (inode.mode & 0111) == 0) {
      return sif::Architecture::kUnknown;
    }
    const auto head = source.head(tree, id, 20);
    return head ? elf_architecture(*head) : sif::Architecture::kUnknown;
  };
  for (const char* path : kUsual) {
    if (const InodeId id = tree.find_id(path); id != Tree::kNone) {
      if (const auto found = look(id); found != sif::Architecture::kUnknown) {
        return found;
      }
    }
  }
  int looked = 0;
  for (InodeId id = 0; id < tree.size() && looked < kMaxPrograms; ++id) {
    if (tree[id].links > 0 && tree[id].kind == Kind::kFile && (tree[id].mode & 0111) != 0) {
      ++looked;
      if (const auto found = look(id); found != sif::Architecture::kUnknown) {
        return found;
      }
    }
  }
  return sif::Architecture::kUnknown;
}

Outcome<> prepare_layout(Tree& tree,
                         const ImageConfig& config,
                         const Scripts& scripts,
                         const Facts& facts) {
  Additions add(tree, facts.time.value_or(facts.newest));
  POSTERN_TRY(add_mount_points(add));
  POSTERN_TRY(add_config(add, config));
  return add_app_folders(add, scripts.apps);
}

Outcome<Description> complete_layout(Tree& tree,
                                     Source& source,
                                     const ImageConfig& config,
                                     const Scripts& scripts,
                                     const Facts& facts) {
  Additions add(tree, facts.time.value_or(facts.newest));
  POSTERN_TRY(add_mount_points(add));
  POSTERN_TRY(add_environment(add, tree, source, scripts));
  POSTERN_TRY(add_scripts(add, config, scripts));
  POSTERN_TRY(add_help(add, tree, source, scripts));
  POSTERN_TRY(add_apps(add, scripts.apps));
  POSTERN_TRY_ASSIGN(const Lines labels, labels_of(tree, source, config, scripts, facts));
  POSTERN_TRY(add.replace(".singularity.d/labels.json", 0644, dumped(json(labels), 1) + "\n"));

  Description out;
  if (!scripts.definition.empty()) {
    POSTERN_TRY(keep_definition(add, tree, source));
    out.definition = scripts.definition;
    POSTERN_TRY(add.replace(".singularity.d/Singularity", 0644, out.definition));
  } else {
    POSTERN_TRY(add.file(".singularity.d/Singularity", 0644,
                         "bootstrap: " + facts.bootstrap + "\nfrom: " + facts.from + "\n"));
    POSTERN_TRY_ASSIGN(const std::optional<std::string> text,
                       file_text(tree, source, "/.singularity.d/Singularity"));
    out.definition =
        text.value_or("bootstrap: " + facts.bootstrap + "\nfrom: " + facts.from + "\n");
  }
  POSTERN_TRY_ASSIGN(out.inspect, inspect_document(tree, source));
  out.oci_config = config.raw;
  return out;
}

}  // namespace postern::imagebuild
