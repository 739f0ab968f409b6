#include "frontend/plan/seccomp_profile.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include <linux/filter.h>
#include <sys/mman.h>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <seccomp.h>
#include <unistd.h>

#include "frontend/system/read_file.h"
#include "policy/config/capabilities.h"
#include "policy/json/document.h"
#include "protocol/base/unique_fd.h"

namespace postern::plan {
namespace {

using Json = nlohmann::json;

struct Architecture {
  std::string_view name;        // of the profile's lists
  std::string_view short_name;  // of includes.arches and excludes.arches
  std::uint32_t token;
};

constexpr std::array kArchitectures = std::to_array<Architecture>({
    {"SCMP_ARCH_X86", "x86", SCMP_ARCH_X86},
    {"SCMP_ARCH_X86_64", "amd64", SCMP_ARCH_X86_64},
    {"SCMP_ARCH_X32", "x32", SCMP_ARCH_X32},
    {"SCMP_ARCH_ARM", "arm", SCMP_ARCH_ARM},
    {"SCMP_ARCH_AARCH64", "arm64", SCMP_ARCH_AARCH64},
    {"SCMP_ARCH_MIPS", "mips", SCMP_ARCH_MIPS},
    {"SCMP_ARCH_MIPS64", "mips64", SCMP_ARCH_MIPS64},
    {"SCMP_ARCH_MIPS64N32", "mips64n32", SCMP_ARCH_MIPS64N32},
    {"SCMP_ARCH_MIPSEL", "mipsel", SCMP_ARCH_MIPSEL},
    {"SCMP_ARCH_MIPSEL64", "mipsel64", SCMP_ARCH_MIPSEL64},
    {"SCMP_ARCH_MIPSEL64N32", "mipsel64n32", SCMP_ARCH_MIPSEL64N32},
    {"SCMP_ARCH_PPC", "ppc", SCMP_ARCH_PPC},
    {"SCMP_ARCH_PPC64", "ppc64", SCMP_ARCH_PPC64},
    {"SCMP_ARCH_PPC64LE", "ppc64le", SCMP_ARCH_PPC64LE},
    {"SCMP_ARCH_S390", "s390", SCMP_ARCH_S390},
    {"SCMP_ARCH_S390X", "s390x", SCMP_ARCH_S390X},
});

constexpr std::array kComparisons = std::to_array<std::pair<std::string_view, scmp_compare>>({
    {"SCMP_CMP_NE", SCMP_CMP_NE},
    {"SCMP_CMP_LT", SCMP_CMP_LT},
    {"SCMP_CMP_LE", SCMP_CMP_LE},
    {"SCMP_CMP_EQ", SCMP_CMP_EQ},
    {"SCMP_CMP_GE", SCMP_CMP_GE},
    {"SCMP_CMP_GT", SCMP_CMP_GT},
    {"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ},
});

constexpr unsigned kSyscallArguments = 6;

Problem malformed(std::string what) {
  return Problem{.what = std::move(what)};
}

// Members of a JSON object; a null counts as absent, as Go's decoder takes it.
const Json* member(const Json& object, const char* name) {
  if (!object.is_object()) {
    return nullptr;
  }
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

Outcome<std::vector<std::string>> strings(const Json& object, const char* name) {
  std::vector<std::string> list;
  const Json* value = member(object, name);
  if (value == nullptr) {
    return list;
  }
  if (!value->is_array()) {
    return malformed(std::string(name) + " is not a list");
  }
  for (const Json& one : *value) {
    if (!one.is_string()) {
      return malformed(std::string(name) + " holds something else than text");
    }
    list.push_back(one.get<std::string>());
  }
  return list;
}

Outcome<std::string> text_of(const Json& object, const char* name) {
  const Json* value = member(object, name);
  if (value != nullptr && !value->is_string()) {
    return malformed(std::string(name) + " is not text");
  }
  return value == nullptr ? std::string{} : value->get<std::string>();
}

Outcome<std::uint64_t> number_of(const Json& object, const char* name) {
  const Json* value = member(object, name);
  if (value != nullptr && !value->is_number_unsigned()) {
    return malformed(std::string(name) + " is not a number, or is negative");
  }
  return value == nullptr ? 0 : value->get<std::uint64_t>();
}

// The errno of `number_key` or, older, of the name in `name_key`; EPERM where neither is given.
Outcome<std::uint32_t> error_number(const Json& object,
                                    const char* number_key,
                                    const char* name_key) {
  if (member(object, number_key) != nullptr) {
    POSTERN_TRY_ASSIGN(const std::uint64_t number, number_of(object, number_key));
    if (number > 4095) {  // MAX_ERRNO of the kernel
      return malformed(std::string(number_key) + " is larger than 4095");
    }
    return static_cast<std::uint32_t>(number);
  }
  POSTERN_TRY_ASSIGN(const std::string name, text_of(object, name_key));
  if (name.empty()) {
    return std::uint32_t{EPERM};
  }
  for (int number = 1; number < 256; ++number) {
    const char* known = strerrorname_np(number);
    if (known != nullptr && name == known) {
      return static_cast<std::uint32_t>(number);
    }
  }
  return malformed(std::string(name_key) + " \"" + name + "\" is no error of errno(3)");
}

Outcome<std::uint32_t> action_of(const std::string& name, std::uint32_t error) {
  if (name == "SCMP_ACT_KILL" || name == "SCMP_ACT_KILL_THREAD") {
    return std::uint32_t{SCMP_ACT_KILL_THREAD};
  }
  if (name == "SCMP_ACT_KILL_PROCESS") {
    return std::uint32_t{SCMP_ACT_KILL_PROCESS};
  }
  if (name == "SCMP_ACT_TRAP") {
    return std::uint32_t{SCMP_ACT_TRAP};
  }
  if (name == "SCMP_ACT_ERRNO") {
    return std::uint32_t{SCMP_ACT_ERRNO(error)};
  }
  if (name == "SCMP_ACT_TRACE") {
    return std::uint32_t{SCMP_ACT_TRACE(error)};
  }
  if (name == "SCMP_ACT_LOG") {
    return std::uint32_t{SCMP_ACT_LOG};
  }
  if (name == "SCMP_ACT_ALLOW") {
    return std::uint32_t{SCMP_ACT_ALLOW};
  }
  return malformed("action \"" + name +
                   "\" is not one of KILL, KILL_PROCESS, TRAP, ERRNO, TRACE, LOG, ALLOW");
}

bool has_capability(const std::vector<std::string>& names, std::uint64_t set, bool all) {
  const auto held = [set](const std::string& name) {
    const config::Capability* const capability = config::find_capability(name);
    return capability != nullptr && (set >> capability->bit & 1) != 0;
  };
  return all ? std::all_of(names.begin(), names.end(), held)
             : std::any_of(names.begin(), names.end(), held);
}

class Compiler {
 public:
  Compiler(std::uint64_t capabilities, std::vector<std::string>& warnings)
      : capabilities_(capabilities), warnings_(warnings) {
    const std::uint32_t native = ::seccomp_arch_native();
    for (const Architecture& one : kArchitectures) {
      if (one.token == native) {
        native_ = &one;
      }
    }
  }

  Outcome<std::vector<std::uint8_t>> compile(const Json& profile);

 private:
  Outcome<> architectures(const Json& profile);
  Outcome<> add_architecture(const std::string& name);
  Outcome<> rule(const Json& rule);
  Outcome<bool> applies(const Json& rule) const;
  Outcome<std::vector<scmp_arg_cmp>> conditions(const Json& rule) const;
  Outcome<> add(std::uint32_t action,
                const std::string& name,
                std::span<const scmp_arg_cmp> conditions);
  Outcome<std::vector<std::uint8_t>> exported();

  struct Release {
    void operator()(void* context) const noexcept { ::seccomp_release(context); }
  };

  std::unique_ptr<void, Release> context_;
  std::uint64_t capabilities_;
  std::vector<std::string>& warnings_;
  const Architecture* native_ = nullptr;
  std::uint32_t default_action_ = 0;
};

Outcome<> Compiler::add_architecture(const std::string& name) {
  const auto* found = std::find_if(kArchitectures.begin(), kArchitectures.end(),
                                   [&](const Architecture& one) { return one.name == name; });
  if (found == kArchitectures.end()) {
    return malformed("architecture \"" + name + "\" is unknown");
  }
  const int err = ::seccomp_arch_add(context_.get(), found->token);
  if (err != 0 && err != -EEXIST) {
    // Byte orders cannot be mixed in one filter: such an architecture cannot run here anyway.
    return err == -EDOM || err == -EINVAL ? Outcome<>(Ok{})
                                          : system_problem("adding architecture " + name, -err);
  }
  return Ok{};
}

Outcome<> Compiler::architectures(const Json& profile) {
  const Json* map = member(profile, "archMap");
  POSTERN_TRY_ASSIGN(const std::vector<std::string> list, strings(profile, "architectures"));
  if (map != nullptr && !list.empty()) {
    return malformed("architectures and archMap exclude each other");
  }
  for (const std::string& name : list) {
    POSTERN_TRY(add_architecture(name));
  }
  if (map == nullptr) {
    return Ok{};
  }
  if (!map->is_array()) {
    return malformed("archMap is not a list");
  }
  for (const Json& entry : *map) {
    POSTERN_TRY_ASSIGN(const std::string name, text_of(entry, "architecture"));
    if (native_ == nullptr || name != native_->name) {
      continue;
    }
    POSTERN_TRY_ASSIGN(const std::vector<std::string> siblings, strings(entry, "subArchitectures"));
    for (const std::string& sibling : siblings) {
      POSTERN_TRY(add_architecture(sibling));
    }
  }
  return Ok{};
}

Outcome<bool> Compiler::applies(const Json& rule) const {
  const std::string own(native_ != nullptr ? native_->short_name : std::string_view{});
  static const Json nothing = Json::object();
  const auto part = [&rule](const char* name) -> const Json& {
    const Json* found = member(rule, name);
    return found != nullptr ? *found : nothing;
  };
  const auto names_own = [&own](const std::vector<std::string>& list) {
    return std::find(list.begin(), list.end(), own) != list.end();
  };
  POSTERN_TRY_ASSIGN(const auto excluded, strings(part("excludes"), "arches"));
  POSTERN_TRY_ASSIGN(const auto included, strings(part("includes"), "arches"));
  POSTERN_TRY_ASSIGN(const auto without, strings(part("excludes"), "caps"));
  POSTERN_TRY_ASSIGN(const auto with, strings(part("includes"), "caps"));
  return !names_own(excluded) && (included.empty() || names_own(included)) &&
         !has_capability(without, capabilities_, false) &&
         has_capability(with, capabilities_, true);
}

Outcome<std::vector<scmp_arg_cmp>> Compiler::conditions(const Json& rule) const {
  std::vector<scmp_arg_cmp> result;
  const Json* list = member(rule, "args");
  if (list == nullptr) {
    return result;
  }
  if (!list->is_array()) {
    return malformed("args is not a list");
  }
  for (const Json& entry : *list) {
    if (entry.is_null()) {
      continue;
    }
    POSTERN_TRY_ASSIGN(const std::uint64_t index, number_of(entry, "index"));
    POSTERN_TRY_ASSIGN(const std::uint64_t value, number_of(entry, "value"));
    POSTERN_TRY_ASSIGN(const std::uint64_t value_two, number_of(entry, "valueTwo"));
    POSTERN_TRY_ASSIGN(const std::string op, text_of(entry, "op"));
    const auto* found = std::find_if(kComparisons.begin(), kComparisons.end(),
                                     [&](const auto& one) { return one.first == op; });
    if (index >= kSyscallArguments || found == kComparisons.end()) {
      return malformed("an argument's index is above 5, or its op \"" + op + "\" is unknown");
    }
    result.push_back({.arg = static_cast<unsigned>(index),
                      .op = found->second,
                      .datum_a = value,
                      .datum_b = value_two});
  }
  return result;
}

Outcome<> Compiler::add(std::uint32_t action,
                        const std::string& name,
                        std::span<const scmp_arg_cmp> conditions) {
  const int number = ::seccomp_syscall_resolve_name(name.c_str());
  if (number == __NR_SCMP_ERROR) {
    return Ok{};  // unknown to this libseccomp: newer kernels' profiles must load here
  }
  const auto insert = [&](std::span<const scmp_arg_cmp> some) -> Outcome<> {
    const int err = ::seccomp_rule_add_array(context_.get(), action, number,
                                             static_cast<unsigned>(some.size()), some.data());
    return err == 0 || err == -EDOM ? Outcome<>(Ok{})
                                    : system_problem("adding the rule of " + name, -err);
  };
  // libseccomp compares each argument once in a rule; several conditions on one are alternatives.
  unsigned seen = 0;
  bool repeated = false;
  for (const scmp_arg_cmp& condition : conditions) {
    repeated = repeated || (seen >> condition.arg & 1) != 0;
    seen |= 1U << condition.arg;
  }
  if (!repeated) {
    return insert(conditions);
  }
  for (const scmp_arg_cmp& condition : conditions) {
    POSTERN_TRY(insert(std::span(&condition, 1)));
  }
  return Ok{};
}

Outcome<> Compiler::rule(const Json& rule) {
  POSTERN_TRY_ASSIGN(std::vector<std::string> names, strings(rule, "names"));
  POSTERN_TRY_ASSIGN(const std::string name, text_of(rule, "name"));
  if (!names.empty() && !name.empty()) {
    return malformed("name and names exclude each other");
  }
  if (!name.empty()) {
    names.push_back(name);
  }
  POSTERN_TRY_ASSIGN(const std::uint32_t error, error_number(rule, "errnoRet", "errno"));
  POSTERN_TRY_ASSIGN(const std::string action_name, text_of(rule, "action"));
  POSTERN_TRY_ASSIGN(const std::uint32_t action, action_of(action_name, error));
  POSTERN_TRY_ASSIGN(const bool wanted, applies(rule));
  POSTERN_TRY_ASSIGN(const std::vector<scmp_arg_cmp> arguments, conditions(rule));
  if (!wanted || action == default_action_) {
    return Ok{};  // libseccomp refuses rules that repeat the default
  }
  for (const std::string& one : names) {
    POSTERN_TRY(add(action, one, arguments));
  }
  return Ok{};
}

Outcome<std::vector<std::uint8_t>> Compiler::exported() {
  const UniqueFd memory(::memfd_create("seccomp", MFD_CLOEXEC));
  if (!memory.valid()) {
    return system_problem("compiling the profile", errno);
  }
  if (const int err = ::seccomp_export_bpf(context_.get(), memory.get()); err != 0) {
    return system_problem("compiling the profile", -err);
  }
  if (::lseek(memory.get(), 0, SEEK_SET) != 0) {
    return system_problem("compiling the profile", errno);
  }
  const auto bytes = system::read_small_file(memory.get());
  const std::size_t instructions = bytes ? bytes->size() / sizeof(sock_filter) : 0;
  if (instructions == 0 || instructions > BPF_MAXINSNS) {
    return malformed("the filter has " + std::to_string(instructions) +
                     " instructions; the kernel takes " + std::to_string(BPF_MAXINSNS));
  }
  return std::vector<std::uint8_t>(bytes->begin(), bytes->end());
}

Outcome<std::vector<std::uint8_t>> Compiler::compile(const Json& profile) {
  if (!profile.is_object()) {
    return malformed("not a JSON object");
  }
  POSTERN_TRY_ASSIGN(const std::string default_name, text_of(profile, "defaultAction"));
  if (default_name.empty()) {
    return malformed("defaultAction is missing");
  }
  POSTERN_TRY_ASSIGN(const std::uint32_t error,
                     error_number(profile, "defaultErrnoRet", "defaultErrno"));
  POSTERN_TRY_ASSIGN(default_action_, action_of(default_name, error));
  context_.reset(::seccomp_init(default_action_));
  if (context_ == nullptr) {
    return system_problem("compiling the profile", ENOMEM);
  }
  POSTERN_TRY(architectures(profile));
  if (const Json* flags = member(profile, "flags"); flags != nullptr && !flags->empty()) {
    warnings_.emplace_back("the seccomp profile's flags are left out: they are not its to choose");
  }
  const Json* rules = member(profile, "syscalls");
  if (rules != nullptr && !rules->is_array()) {
    return malformed("syscalls is not a list");
  }
  std::size_t index = 0;
  for (const Json& one : rules != nullptr ? *rules : Json::array()) {
    if (auto added = rule(one); !added) {
      return malformed("rule " + std::to_string(index) + ": " + added.error().what);
    }
    ++index;
  }
  return exported();
}

}  // namespace

Outcome<std::vector<std::uint8_t>> compile_seccomp(std::string_view text,
                                                   std::uint64_t capabilities,
                                                   std::vector<std::string>& warnings) {
  const Json profile = postern::json::parse_document(text);
  if (profile.is_discarded()) {
    return malformed("not JSON");
  }
  return Compiler(capabilities, warnings).compile(profile);
}

Outcome<std::vector<std::uint8_t>> compile_own_rules(std::string_view rules) {
  constexpr std::string_view kStart = R"({
"defaultAction": "SCMP_ACT_ALLOW",
"archMap": [
  {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
  {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
  {"architecture": "SCMP_ARCH_S390X", "subArchitectures": ["SCMP_ARCH_S390"]}
],
"syscalls": [)";
  std::vector<std::string> warnings;
  return compile_seccomp(std::string(kStart) + std::string(rules) + "]}", 0, warnings);
}

Outcome<std::vector<std::uint8_t>> load_seccomp(const std::string& path,
                                                std::uint64_t capabilities,
                                                std::vector<std::string>& warnings) {
  errno = 0;
  const auto text = system::read_small_file(path);
  if (!text) {
    return path_problem("seccomp profile " + path, errno != 0 ? errno : EFBIG,
                        "name a readable profile: --security seccomp:FILE");
  }
  auto program = compile_seccomp(*text, capabilities, warnings);
  if (!program) {
    Problem problem = std::move(program).error();
    problem.what = "seccomp profile " + path + ": " + problem.what;
    problem.cure = "the format is that of Docker and containers-common";
    return problem;
  }
  return program;
}

}  // namespace postern::plan
