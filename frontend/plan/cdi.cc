#include "frontend/plan/cdi.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include <sys/stat.h>

#include "frontend/system/libexec.h"
#include "frontend/system/read_file.h"
#include "frontend/system/spawn.h"
#include "policy/json/strict.h"
#include "protocol/limits.h"

namespace postern::plan {
namespace {

using Kind = json::Value::Kind;

constexpr std::array<const char*, 2> kDirectories = {"/etc/cdi", "/var/run/cdi"};
// Every released version: SPEC.md, "Released versions".
constexpr std::array<std::string_view, 8> kVersions = {"0.3.0", "0.4.0", "0.5.0", "0.6.0",
                                                       "0.7.0", "0.8.0", "1.0.0", "1.1.0"};

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

bool is_alphanumeric(char c) {
  return is_letter(c) || (c >= '0' && c <= '9');
}

// SPEC.md, "CDI Kind" and "CDI Device": what a name begins and ends with, and `between` in it.
bool is_name(std::string_view text, std::string_view between, bool letter_first) {
  if (text.empty() || !is_alphanumeric(text.back()) ||
      !(letter_first ? is_letter(text.front()) : is_alphanumeric(text.front()))) {
    return false;
  }
  return std::all_of(text.begin(), text.end(),
                     [&](char c) { return is_alphanumeric(c) || between.find(c) != between.npos; });
}

bool is_kind(std::string_view text) {
  const auto slash = text.find('/');
  return slash != text.npos && is_name(text.substr(0, slash), "_-.", true) &&
         is_name(text.substr(slash + 1), "_-.", true);
}

bool is_device_name(std::string_view text) {
  return is_name(text, "_-.:", false);
}

// The names of two well-known programs of hooks whose work is done in another way: libraries are
// found through /.singularity.d/libs, under the names that programs ask for.
bool is_library_hook(const json::Value& hook) {
  const json::Value* args = hook.find("args", Kind::kArray);
  return args != nullptr &&
         std::any_of(args->items.begin(), args->items.end(), [](const json::Value& word) {
           return word.text == "update-ldcache" || word.text == "create-symlinks" ||
                  word.text == "chmod";
         });
}

class Parser {
 public:
  Outcome<CdiSpec> spec(const json::Value& root) {
    if (root.kind != Kind::kObject) {
      return error("the file is no object");
    }
    std::string version = text(root, "cdiVersion");
    if (version.starts_with('v')) {
      version.erase(0, 1);
    }
    if (std::find(kVersions.begin(), kVersions.end(), version) == kVersions.end()) {
      return error(version.empty() ? "cdiVersion is missing"
                                   : "cdiVersion " + version + " is not known (0.3.0 to " +
                                         std::string(kVersions.back()) + ')');
    }
    CdiSpec spec;
    spec.kind = text(root, "kind");
    if (!is_kind(spec.kind)) {
      return error("kind \"" + spec.kind + "\" is not of the form vendor.com/class");
    }
    POSTERN_TRY_ASSIGN(spec.edits, edits(root, "the file"));
    const json::Value* devices = root.find("devices", Kind::kArray);
    if (devices == nullptr || devices->items.empty()) {
      return error("there are no devices in it");
    }
    for (const json::Value& one : devices->items) {
      CdiSpec::Device device{.name = text(one, "name"), .edits = {}};
      if (!is_device_name(device.name)) {
        return error("\"" + device.name + "\" is no name of a device");
      }
      const bool twice =
          std::any_of(spec.devices.begin(), spec.devices.end(),
                      [&](const CdiSpec::Device& other) { return other.name == device.name; });
      if (twice) {
        return error("the device " + device.name + " is in it twice");
      }
      POSTERN_TRY_ASSIGN(device.edits, edits(one, "device " + device.name));
      spec.devices.push_back(std::move(device));
    }
    return spec;
  }

 private:
  static Problem error(std::string what) { return Problem{.what = std::move(what)}; }

  // YAML has no quotes around most texts: a name may look like a number.
  static std::string text(const json::Value& object, std::string_view name) {
    const json::Value* value = object.find(name);
    if (value == nullptr) {
      return {};
    }
    return value->kind == Kind::kUnsigned ? std::to_string(value->number) : value->text;
  }

  static Outcome<std::string> path(const json::Value& object, std::string_view name) {
    std::string out = text(object, name);
    if (out.empty() || out.front() != '/') {
      return error(std::string(name) + " \"" + out + "\" is not an absolute path");
    }
    return out;
  }

  // The list of this name; an empty one if there is none.
  static Outcome<std::vector<json::Value>> list(const json::Value& object, std::string_view name) {
    const json::Value* value = object.find(name);
    if (value == nullptr || value->kind == Kind::kNull) {
      return std::vector<json::Value>{};
    }
    if (value->kind != Kind::kArray) {
      return error(std::string(name) + " is no list");
    }
    return value->items;
  }

  static Outcome<CdiEdits> edits(const json::Value& object, const std::string& where) {
    CdiEdits out;
    const json::Value* edits = object.find("containerEdits");
    if (edits == nullptr || edits->kind == Kind::kNull) {
      return out;
    }
    if (edits->kind != Kind::kObject) {
      return error(where + ": containerEdits is no object");
    }
    for (const auto& [name, take] :
         {std::pair("env", &take_variable), std::pair("deviceNodes", &take_node),
          std::pair("mounts", &take_mount), std::pair("hooks", &take_hook)}) {
      POSTERN_TRY_ASSIGN(const std::vector<json::Value> items, list(*edits, name));
      for (const json::Value& item : items) {
        if (auto taken = take(item, out); !taken) {
          return error(where + ": " + name + ": " + taken.error().what);
        }
      }
    }
    for (const auto& [name, why] : {std::pair("additionalGids", "groups are the caller's own"),
                                    std::pair("intelRdt", "cache allocation is the system's"),
                                    std::pair("netDevices", "moving network devices takes root")}) {
      if (edits->find(name) != nullptr) {
        out.ignored.push_back(where + ": " + name + " is not applied: " + why);
      }
    }
    return out;
  }

  static Outcome<> take_variable(const json::Value& item, CdiEdits& out) {
    if (item.text.find('=') == std::string::npos || item.text.front() == '=') {
      return error("\"" + item.text + "\" is not of the form NAME=VALUE");
    }
    out.environment.push_back(item.text);
    return Ok{};
  }

  // Its type, numbers, owner and mode are those of the host's node, which is bound as it is.
  static Outcome<> take_node(const json::Value& item, CdiEdits& out) {
    POSTERN_TRY_ASSIGN(std::string inside, path(item, "path"));
    std::string host = inside;
    if (item.find("hostPath") != nullptr) {
      POSTERN_TRY_ASSIGN(host, path(item, "hostPath"));
    }
    const std::string type = text(item, "type");
    if (!type.empty() && type != "c" && type != "u") {
      return error(inside + ": nodes of type " + type + " cannot be given to a container");
    }
    const std::string permissions = text(item, "permissions");
    if (permissions.find_first_not_of("rwm") != std::string::npos) {
      return error(inside + ": permissions \"" + permissions + "\" are not of the letters r, w, m");
    }
    out.nodes.push_back({.path = std::move(inside), .host_path = std::move(host)});
    return Ok{};
  }

  static Outcome<> take_mount(const json::Value& item, CdiEdits& out) {
    CdiMount mount;
    POSTERN_TRY_ASSIGN(mount.host_path, path(item, "hostPath"));
    POSTERN_TRY_ASSIGN(mount.path, path(item, "containerPath"));
    const std::string type = text(item, "type");
    if (!type.empty() && type != "bind" && type != "none") {
      return error(mount.path + ": mounts of type " + type + " are not made, only binds");
    }
    // Every mount is nosuid and nodev, and none propagates to the host: mount(8).
    static constexpr std::array<std::string_view, 14> kAlways = {
        "bind",  "rbind",  "nosuid",   "nodev",   "rw",       "private", "rprivate",
        "slave", "rslave", "relatime", "noatime", "defaults", "suid",    "dev"};
    POSTERN_TRY_ASSIGN(const std::vector<json::Value> options, list(item, "options"));
    for (const json::Value& option : options) {
      if (option.text == "ro") {
        mount.read_only = true;
      } else if (std::find(kAlways.begin(), kAlways.end(), option.text) == kAlways.end()) {
        out.ignored.push_back(mount.path + ": the mount option " + option.text + " is not applied");
      }
    }
    out.mounts.push_back(std::move(mount));
    return Ok{};
  }

  static Outcome<> take_hook(const json::Value& item, CdiEdits& out) {
    POSTERN_TRY_ASSIGN(const std::string program, path(item, "path"));
    if (!is_library_hook(item)) {
      out.ignored.push_back("the hook " + program + " (" + text(item, "hookName") +
                            ") is not run: it is a program of the host");
    }
    return Ok{};
  }
};

// ----------------------------------------------------------------------------------------- files

struct File {
  std::string path;
  std::size_t directory = 0;  // a higher one overrides
  CdiSpec spec;
};

// By our own program, so that bin/postern loads no library for YAML.
Outcome<std::string> yaml_as_json(const std::string& path) {
  const auto finished = system::run_and_read(
      {.program = system::libexec_program("postern-yaml"), .words = {"postern-yaml", path}},
      kMaxFileBytes);
  if (!finished) {
    return system::program_problem("starting", "postern-yaml", finished.error().err);
  }
  if (finished->status != 0) {
    return Problem{.what = finished->output.empty()
                               ? "postern-yaml " + system::describe_end(finished->status)
                               : finished->output};
  }
  return finished->output;
}

Outcome<CdiSpec> read_spec(const std::string& path) {
  std::string text;
  if (path.ends_with(".yaml")) {
    POSTERN_TRY_ASSIGN(text, yaml_as_json(path));
  } else {
    errno = 0;
    std::optional<std::string> read = system::read_small_file(path);
    if (!read) {
      return system_problem("reading it", errno != 0 ? errno : EFBIG);
    }
    text = *std::move(read);
  }
  auto spec = parse_cdi_spec(text);
  if (!spec) {
    Problem problem = std::move(spec).error();
    return problem;
  }
  return spec;
}

class Registry {
 public:
  // A file that cannot be read may hold what is looked for; it matters only if nothing is found.
  void read(const std::string& directory, std::size_t rank) {
    std::vector<std::string> paths;
    std::error_code code;
    for (const auto& entry : std::filesystem::directory_iterator(directory, code)) {
      const std::string path = entry.path().string();
      struct stat status = {};
      if ((path.ends_with(".json") || path.ends_with(".yaml")) &&
          ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode)) {
        paths.push_back(path);
      }
    }
    std::sort(paths.begin(), paths.end());
    for (std::string& path : paths) {
      auto spec = read_spec(path);
      if (spec) {
        files_.push_back({.path = std::move(path), .directory = rank, .spec = *std::move(spec)});
      } else {
        mistakes_.push_back(path + ": " + spec.error().what);
      }
    }
  }

  // The devices that a word stands for.
  Outcome<std::vector<std::string>> names(const std::string& kind, const std::string& name) const {
    std::vector<std::string> all;
    for (const File& file : files_) {
      for (const CdiSpec::Device& device : file.spec.devices) {
        if (file.spec.kind != kind) {
          continue;
        }
        if (device.name == name) {
          return std::vector<std::string>{name};
        }
        if (std::find(all.begin(), all.end(), device.name) == all.end()) {
          all.push_back(device.name);
        }
      }
    }
    if (name == "all" && !all.empty()) {
      return all;
    }
    return not_found(kind + '=' + name);
  }

  Outcome<std::pair<std::size_t, const CdiSpec::Device*>> find(const std::string& kind,
                                                               const std::string& name) const {
    std::optional<std::size_t> best;
    const CdiSpec::Device* found = nullptr;
    const File* conflict = nullptr;
    for (std::size_t i = 0; i < files_.size(); ++i) {
      const auto& devices = files_[i].spec.devices;
      const auto device = std::find_if(devices.begin(), devices.end(),
                                       [&](const auto& one) { return one.name == name; });
      if (files_[i].spec.kind != kind || device == devices.end()) {
        continue;
      }
      // Files are in the order of their directories.
      conflict = best && files_[*best].directory == files_[i].directory ? &files_[i] : nullptr;
      if (conflict == nullptr) {
        best = i;
        found = &*device;
      }
    }
    if (conflict != nullptr) {
      return Problem{.what = "--device " + kind + '=' + name + ": both " + files_[*best].path +
                             " and " + conflict->path + " describe it",
                     .cure = "remove one of the files, or choose directories with --cdi-dirs"};
    }
    return std::pair(*best, found);
  }

  [[nodiscard]] const CdiEdits& edits_of_file(std::size_t index) const {
    return files_[index].spec.edits;
  }

 private:
  Problem not_found(const std::string& device) const {
    Problem problem{.what = "--device " + device + ": no CDI specification of this host has it",
                    .cure =
                        "the host has no such file; its vendor's tool makes them, such as "
                        "`nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`"};
    if (!mistakes_.empty()) {
      problem.cure = "mend " + mistakes_.front();
    } else if (!files_.empty()) {
      problem.cure = "there are:";
      for (const File& file : files_) {
        for (const CdiSpec::Device& one : file.spec.devices) {
          problem.cure += ' ' + file.spec.kind + '=' + one.name;
        }
      }
    }
    return problem;
  }

  std::vector<File> files_;
  std::vector<std::string> mistakes_;
};

void append(const CdiEdits& more, CdiEdits& out) {
  const auto add = [](const auto& from, auto& to) {
    to.insert(to.end(), from.begin(), from.end());
  };
  add(more.environment, out.environment);
  add(more.nodes, out.nodes);
  add(more.mounts, out.mounts);
  add(more.ignored, out.ignored);
}

}  // namespace

Outcome<CdiSpec> parse_cdi_spec(std::string_view json) {
  POSTERN_TRY_ASSIGN(const json::Value root,
                     json::parse(json, {.bytes = kMaxFileBytes, .depth = 12}));
  return Parser().spec(root);
}

Outcome<CdiEdits> cdi_edits(const std::vector<std::string>& devices,
                            std::vector<std::string> directories) {
  CdiEdits out;
  if (devices.empty()) {
    return out;
  }
  const bool named = !directories.empty();
  if (!named) {
    directories.assign(kDirectories.begin(), kDirectories.end());
  }
  Registry registry;
  for (std::size_t i = 0; i < directories.size(); ++i) {
    std::error_code code;
    if (named && !std::filesystem::is_directory(directories[i], code)) {
      return Problem{.what = "--cdi-dirs " + directories[i] + ": there is no such directory"};
    }
    registry.read(directories[i], i);
  }
  std::vector<std::string> done;        // devices
  std::vector<std::size_t> done_files;  // whose common edits were made
  for (const std::string& word : devices) {
    const auto equals = word.find('=');
    const std::string kind = word.substr(0, equals);
    const std::string name = equals == std::string::npos ? "" : word.substr(equals + 1);
    if (!is_kind(kind) || !is_device_name(name)) {
      return Problem{.what = "--device " + word + ": not of the form vendor.com/class=name",
                     .cure = "bind a device node with --bind /dev/NAME"};
    }
    POSTERN_TRY_ASSIGN(const std::vector<std::string> names, registry.names(kind, name));
    for (const std::string& one : names) {
      if (std::find(done.begin(), done.end(), kind + '=' + one) != done.end()) {
        continue;
      }
      done.push_back(kind + '=' + one);
      POSTERN_TRY_ASSIGN(const auto found, registry.find(kind, one));
      const auto& [file, device] = found;
      if (std::find(done_files.begin(), done_files.end(), file) == done_files.end()) {
        done_files.push_back(file);
        append(registry.edits_of_file(file), out);
      }
      append(device->edits, out);
    }
  }
  return out;
}

}  // namespace postern::plan
