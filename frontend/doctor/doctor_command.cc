#include "frontend/doctor/doctor_command.h"

#include <cstdio>

#include "frontend/doctor/report.h"
#include "frontend/message/message.h"
#include "protocol/exit_codes.h"

namespace postern::doctor {
namespace {

constexpr const char* kUsage =
    "Usage: postern doctor [--json]\n\n"
    "Say what this host offers to containers, what it does not, and the cure. Exits 0 when an "
    "image\n"
    "can run.\n\n"
    "Options:\n"
    "  -j, --json  print JSON instead of text\n"
    "  -h, --help  show this text\n";

}  // namespace

int doctor_command(std::span<const std::string> args) {
  bool json = false;
  for (const std::string& arg : args) {
    if (arg == "--json" || arg == "-j") {
      json = true;
    } else if (arg == "--help" || arg == "-h") {
      std::fputs(kUsage, stdout);
      return 0;
    } else {
      message::error("`doctor` does not know '" + arg + "'");
      std::fputs(kUsage, stderr);
      return kExitUsage;
    }
  }
  const Report report = examine(gather());
  const std::string text = json ? to_json(report) : to_text(report);
  std::fputs(text.c_str(), stdout);
  return report.can_run() && std::fflush(stdout) == 0 ? 0 : 1;
}

}  // namespace postern::doctor
