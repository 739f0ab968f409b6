#include "frontend/init/payload.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include <unistd.h>

#include "frontend/init/oci_script.h"
#include "frontend/message/message.h"
#include "protocol/exit_codes.h"

namespace postern::init {
namespace {

constexpr std::string_view kShell = "/bin/sh";

bool is_executable(const std::string& path) {
  return ::access(path.c_str(), X_OK) == 0;
}

bool exists(const std::string& path) {
  return ::access(path.c_str(), F_OK) == 0;
}

bool has_entry(std::string_view path_list, std::string_view entry) {
  for (;;) {
    const auto colon = path_list.find(':');
    if (path_list.substr(0, colon) == entry) {
      return true;
    }
    if (colon == std::string_view::npos) {
      return false;
    }
    path_list.remove_prefix(colon + 1);
  }
}

void append_entry(std::string& path_list, std::string_view entry) {
  if (entry.empty()) {
    return;
  }
  if (!path_list.empty()) {
    path_list += ':';
  }
  path_list += entry;
}

std::string value_of(const Environment& environment, std::string_view name) {
  const std::string* const value = environment.find(name);
  return value != nullptr ? *value : std::string();
}

int fail(std::string what, std::string cure = {}) {
  const Problem problem{.what = std::move(what), .cure = std::move(cure)};
  message::fatal(problem);
  return problem.exit_code;
}

// Tries one path. Returns errno; the environment and arguments are those of execve(2).
int try_exec(const std::string& path,
             std::vector<std::string>& argv,
             const Environment& environment) {
  std::vector<char*> pointers;
  pointers.reserve(argv.size() + 2);
  for (std::string& argument : argv) {
    pointers.push_back(argument.data());
  }
  pointers.push_back(nullptr);
  shell::EnvironmentBlock block(environment);
  ::execve(path.c_str(), pointers.data(), block.get());
  if (errno != ENOEXEC) {
    return errno;
  }
  // execvp(3): a script without an interpreter line is the shell's.
  std::string shell(kShell);
  std::string file = path;
  pointers.insert(pointers.begin(), shell.data());
  pointers[1] = file.data();
  ::execve(shell.c_str(), pointers.data(), block.get());
  return ENOEXEC;
}

int explain(const std::string& path, int err) {
  switch (err) {
    case ENOENT:
      if (exists(path)) {
        return fail("exec " + path + ": No such file or directory",
                    "the file exists, but the image lacks its interpreter, dynamic loader or a "
                    "shared library");
      }
      return fail("stat " + path + ": No such file or directory");
    case ENOEXEC:
      return fail("exec " + path + ": Exec format error",
                  "the file is for another architecture, or is a script and the image has no "
                  "/bin/sh");
    case E2BIG:
      return fail("exec " + path + ": Argument list too long",
                  "shorten the arguments or the environment (--cleanenv), or raise `ulimit -s`");
    case EACCES:
      return fail("exec " + path + ": Permission denied",
                  ::access(path.c_str(), X_OK) == 0
                      ? "it is a directory, or lies on a file system mounted noexec"
                      : "it is not executable for you");
    default: {
      const char* const words = strerrordesc_np(err);
      return fail("exec " + path + ": " + (words != nullptr ? words : "unknown error"));
    }
  }
}

std::vector<std::string> with_arguments(std::vector<std::string> argv, const LaunchRecord& record) {
  argv.insert(argv.end(), record.argv.begin(), record.argv.end());
  return argv;
}

int run_shell(const LaunchRecord& record, Environment& environment) {
  std::vector<std::string> argv;
  if (!record.shell.empty() && !is_executable(record.shell)) {
    message::warning("the image has no " + record.shell + ": another shell starts");
  }
  if (!record.shell.empty() && is_executable(record.shell)) {
    argv = {record.shell};
  } else if (is_executable("/bin/bash")) {
    argv = {"/bin/bash", "--norc"};
  } else if (is_executable(std::string(kShell))) {
    argv = {std::string(kShell)};
  } else {
    message::error("no valid shell found in container: it has neither /bin/bash nor /bin/sh");
    return kExitUsage;
  }
  environment.set("SHELL", argv[0]);
  return execute(with_arguments(std::move(argv), record), environment);
}

// The application's script, the image's, or nothing.
std::string find_script(const LaunchRecord& record, std::string_view name) {
  std::string path =
      record.app.empty() ? "/.singularity.d/" : "/scif/apps/" + record.app + "/scif/";
  path += name;
  return exists(path) ? path : std::string();
}

int run_script(const LaunchRecord& record, const Environment& environment) {
  for (const std::string& script :
       {find_script(record, "runscript"), std::string(record.app.empty() ? "/apptainer" : "")}) {
    if (!script.empty() && exists(script)) {
      const std::optional<std::string> text = read_script(script.c_str());
      if (auto argv = text ? oci_command(*text, record.argv, environment,
                                         is_executable(std::string(kShell)))
                           : std::nullopt;
          argv && !argv->empty()) {
        return execute(*std::move(argv), environment);
      }
      return execute(with_arguments({script}, record), environment);
    }
  }
  if (!record.app.empty()) {
    message::error("No runscript for contained app: " + record.app);
    return kExitUsage;
  }
  message::info("No runscript found in container, executing /bin/sh");
  return execute(with_arguments({std::string(kShell)}, record), environment);
}

int run_optional(const LaunchRecord& record,
                 const Environment& environment,
                 std::string_view name,
                 std::string_view none) {
  const std::string script = find_script(record, name);
  if (script.empty()) {
    message::info(none);
    return 0;
  }
  return execute(with_arguments({script}, record), environment);
}

}  // namespace

Environment base_environment(const LaunchRecord& record) {
  Environment environment;
  environment.set("PATH", std::string(kDefaultPath));
  for (const std::string& assignment : record.fixed) {
    environment.set(assignment);
  }
  return environment;
}

void restore_host(Environment& environment, const LaunchRecord& record) {
  for (const std::string& assignment : record.fixed) {
    // The scripts may extend the search paths; the rest of the runtime's variables is read-only.
    if (!assignment.starts_with("PATH=") && !assignment.starts_with("LD_LIBRARY_PATH=")) {
      environment.set(assignment);
    }
  }
  std::vector<std::string_view> missing;
  for (const std::string& assignment : record.environment) {
    const std::string_view name = std::string_view(assignment).substr(0, assignment.find('='));
    const std::string* const value = environment.find(name);
    if (value == nullptr) {
      missing.push_back(assignment);
    } else if (value->empty()) {
      environment.unset(name);
    }
  }
  for (const std::string_view assignment : missing) {
    environment.set(assignment);
  }
}

bool apply_forwarded(Environment& environment, const LaunchRecord& record, shell::Reach reach) {
  for (const std::string& assignment : record.forwarded) {
    const auto equals = assignment.find('=');
    if (equals == std::string::npos) {
      continue;
    }
    const std::string_view value = std::string_view(assignment).substr(equals + 1);
    if (record.no_eval || value.find_first_of("$`\\") == std::string_view::npos) {
      environment.set(assignment);
      continue;
    }
    std::optional<std::string> expanded = shell::expand_quoted(value, environment, reach);
    if (!expanded && reach != shell::Reach::kEverything) {
      return false;
    }
    if (!expanded) {
      message::warning(assignment.substr(0, equals) +
                       ": its value cannot be evaluated, and is taken as it stands");
    }
    environment.set(assignment.substr(0, equals),
                    expanded ? *std::move(expanded) : std::string(value));
  }
  return true;
}

void finish_search_paths(Environment& environment, const LaunchRecord& record) {
  std::string path;
  append_entry(path, record.prepend_path);
  append_entry(path, value_of(environment, "PATH"));
  append_entry(path, record.append_path);
  // What was asked for by name is all there is; to the image's own PATH the usual places are added.
  const bool given = std::any_of(record.forwarded.begin(), record.forwarded.end(),
                                 [](const std::string& one) { return one.starts_with("PATH="); });
  for (std::string_view rest = given ? std::string_view() : kDefaultPath; !rest.empty();) {
    const auto colon = rest.find(':');
    if (!has_entry(path, rest.substr(0, colon))) {
      append_entry(path, rest.substr(0, colon));
    }
    rest.remove_prefix(colon == std::string_view::npos ? rest.size() : colon + 1);
  }
  environment.set("PATH", std::move(path));

  std::string libraries;
  append_entry(libraries, value_of(environment, "PREPEND_LD_LIBRARY_PATH"));
  append_entry(libraries, value_of(environment, "LD_LIBRARY_PATH"));
  append_entry(libraries, value_of(environment, "APPEND_LD_LIBRARY_PATH"));
  if (!has_entry(libraries, kLibraries)) {
    append_entry(libraries, kLibraries);
  }
  if (record.libs32 && !has_entry(libraries, kLibraries32)) {
    append_entry(libraries, kLibraries32);
  }
  environment.set("LD_LIBRARY_PATH", std::move(libraries));
  environment.unset("PREPEND_LD_LIBRARY_PATH");
  environment.unset("APPEND_LD_LIBRARY_PATH");
}

int execute(std::vector<std::string> argv, const Environment& environment) {
  if (argv.empty() || argv[0].empty()) {
    return fail("no command given");
  }
  const std::string program = argv[0];
  if (program.find('/') != std::string::npos) {
    return explain(program, try_exec(program, argv, environment));
  }
  const std::string path = value_of(environment, "PATH");
  std::string denied;
  for (std::string_view rest = path;;) {
    const auto colon = rest.find(':');
    std::string candidate(rest.substr(0, colon));
    candidate += candidate.empty() ? "./" : "/";
    candidate += program;
    const int err = try_exec(candidate, argv, environment);
    if (err == EACCES) {
      denied = denied.empty() ? candidate : denied;
    } else if ((err != ENOENT && err != ENOTDIR) || (err == ENOENT && exists(candidate))) {
      return explain(candidate, err);
    }
    if (colon == std::string_view::npos) {
      break;
    }
    rest.remove_prefix(colon + 1);
  }
  if (!denied.empty()) {
    return explain(denied, EACCES);
  }
  return fail('"' + program + "\": executable file not found in $PATH");
}

int run_payload(const LaunchRecord& record, Environment& environment) {
  if (!record.app.empty() && !exists("/scif/apps/" + record.app)) {
    message::error("Could not locate the container application: " + record.app);
    return kExitUsage;
  }
  switch (record.action) {
    case Action::kExec:
      return execute(record.argv, environment);
    case Action::kShell:
      return run_shell(record, environment);
    case Action::kRun:
      return run_script(record, environment);
    case Action::kTest:
      return run_optional(record, environment, "test", "No tests defined in container");
    case Action::kStart:
      return run_optional(record, environment, "startscript", "No startscript found in container");
  }
  return kExitFatal;
}

}  // namespace postern::init
