// postern-build: the command `build`. Started by bin/postern with its own argv.

#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <unistd.h>

#include "frontend/imagebuild/build.h"
#include "frontend/imagebuild/interrupt.h"
#include "frontend/imagebuild/options.h"
#include "frontend/message/message.h"
#include "protocol/exit_codes.h"

namespace {

namespace imagebuild = postern::imagebuild;
namespace message = postern::message;

int run(const std::vector<std::string>& words) {
  auto options = imagebuild::parse_options(words, environ);
  if (!options && options.error().exit_code == postern::kExitUsage) {
    return message::wrong_usage("build", options.error().what, imagebuild::usage_text());
  }
  if (!options) {
    message::fatal(options.error());
    return options.error().exit_code;
  }
  for (const std::string& note : options->notes) {
    message::verbose(note);
  }
  const auto done = imagebuild::run_build(*options);
  if (!done) {
    message::fatal(done.error());
    return done.error().exit_code;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  message::configure_from_environment();
  // Names in archives are bytes; libarchive converts pax headers by the locale, and this one is the
  // identity.
  if (std::setlocale(LC_CTYPE, "C.UTF-8") == nullptr) {
    message::warning("no C.UTF-8 locale: names in pax archives that are not ASCII may suffer");
  }
  std::vector<std::string> words(argv + (argc > 0 ? 1 : 0), argv + argc);
  if (!words.empty() && words.front() == "build") {
    words.erase(words.begin());
  }
  for (const std::string& word : words) {
    if (word == "-h" || word == "--help") {
      std::fputs(imagebuild::usage_text().c_str(), stdout);
      return 0;
    }
    if (!word.starts_with('-')) {
      break;
    }
  }
  int status = 0;
  {
    const imagebuild::InterruptGuard guard;
    status = run(words);
  }
  if (const int signal = imagebuild::interrupt_signal(); signal != 0) {
    std::raise(signal);  // the shell learns that it was the signal
  }
  return status;
}
