// A shell interpreter in this process: environment scripts of images, forwarded values and files of
// --env-file. It reads POSIX shell and most of what people write in bash, whatever /bin/sh of an
// image is, and takes no time to start.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "frontend/shell/environment.h"

namespace postern::shell {

class Machine;

// What a script may touch, each more than the one before. What it asks beyond that ends it
// (Ended::kBeyond).
enum class Reach {
  kVariables,  // variables alone, and a bound on the work: nothing outside of it is seen or changed
  kFiles,      // files are looked at, and sourced; the same bound
  kEverything,  // programs, redirections, the process itself
};

enum class Ended {
  kDone,    // to the last command, or by an error that ends a script
  kExit,    // `exit` or `exec`: the status is Run::status
  kBeyond,  // the reach did not suffice; variables are in an undefined state
  kSyntax,  // it could not be read; nothing of it was executed
};

struct Run {
  Ended ended = Ended::kDone;
  int status = 0;
  std::vector<std::string> messages;  // "line 3: …": errors, and what was beyond reach
};

// Scripts that run one after the other, as if one sourced them all: what one defines the next has.
class Session {
 public:
  Session(const Environment& environment, Reach reach);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void export_all();  // set -a, for all scripts
  Run run(std::string_view script, const std::string& name);
  [[nodiscard]] Environment environment() const;

 private:
  std::unique_ptr<Machine> machine_;
};

// What the text means between double quotes. nullopt: it is malformed, or beyond reach.
std::optional<std::string> expand_quoted(std::string_view text,
                                         const Environment& environment,
                                         Reach reach);

// The words of a line that holds nothing else: quotes and expansions in quotes resolved.
// nullopt otherwise.
std::optional<std::vector<std::string>> plain_words(std::string_view line,
                                                    const Environment& environment);

}  // namespace postern::shell
