// Which variables reach the payload, and from where.
#pragma once

#include <string>
#include <vector>

#include "policy/problem.h"

namespace postern::plan {

struct EnvironmentWish {
  bool clean = false;                     // --cleanenv
  std::vector<std::string> not_imported;  // --no-env: names
  std::vector<std::string> set;           // --env: NAME=VALUE
  std::vector<std::string> from_files;    // --env-file: NAME=VALUE, later ones win
};

struct PayloadEnvironment {
  std::vector<std::string> imported;   // as LaunchRecord::environment
  std::vector<std::string> forwarded;  // as LaunchRecord::forwarded
  std::string prepend_path;
  std::string append_path;
  std::vector<std::string> warnings;  // sentences for message::warning
};

// `host` is environ(7). The rules:
// - A host variable is imported unless it has one of the six prefixes (POSTERN_, POSTERNENV_ and
//   Apptainer's four), is HOME, PATH or LD_LIBRARY_PATH, is named in `not_imported`. Names
//   that are no shell identifiers (exported bash functions) pass. With `clean` only TERM and the
//   proxy variables are, and LANG=C is set.
// - POSTERNENV_NAME, else APPTAINERENV_NAME, else SINGULARITYENV_NAME of the host, beaten by
//   `from_files`, beaten by `set`, is forwarded as NAME: over what the image's scripts set.
// - PREPEND_PATH and APPEND_PATH are no variables but changes to PATH. HOME is the --home option's.
PayloadEnvironment payload_environment(const EnvironmentWish& wish, const char* const* host);

// The variables that a file in shell syntax sets, as NAME=VALUE. It sees the variables of `host`
// and nothing else: no program, no other file, no output, and a bound on the work, because the file
// may be anybody's and root may name it. Error: the file cannot be read, is no shell text, or asks
// for more.
Outcome<std::vector<std::string>> evaluate_environment_file(const std::string& path,
                                                            const char* const* host);

}  // namespace postern::plan
