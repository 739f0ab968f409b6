#include "frontend/start/gocryptfs.h"

#include <cerrno>
#include <string>
#include <vector>

#include <sys/mman.h>

#include "frontend/start/image_server.h"
#include "frontend/system/libexec.h"
#include "frontend/system/spawn.h"

namespace postern::start {
namespace {

constexpr int kImageNumber = 3;
constexpr int kOutputNumber = 4;

}  // namespace

Outcome<UniqueFd> read_gocryptfs_configuration(const plan::ImageServer& image) {
  UniqueFd text(::memfd_create("gocryptfs.conf", MFD_CLOEXEC));
  if (!text.valid()) {
    return system_problem("making room for the configuration of the image", errno);
  }
  system::Command command{
      .program = system::libexec_program("postern-squashfs"),
      .words = {"postern-squashfs", "--threads", "1", "--image-fd", std::to_string(kImageNumber),
                "--configuration-fd", std::to_string(kOutputNumber)},
      .passed = {{image.image.get(), kImageNumber}, {text.get(), kOutputNumber}},
      .environment = std::vector<std::string>{}};
  for (std::string& word : extent_arguments(image, {})) {
    command.words.push_back(std::move(word));
  }
  const auto pid = system::spawn(command);
  if (!pid) {
    return system::program_problem("starting", command.program, pid.error().err);
  }
  if (system::wait_for_end(*pid) != 0) {
    return Problem{.what = {}};
  }
  return text;
}

}  // namespace postern::start
