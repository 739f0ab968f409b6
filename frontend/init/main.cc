// postern-init: the first program inside the container. Static, unprivileged, executed by
// descriptor; becomes the payload.
//
//     postern-init [RECORD]
//
// RECORD is the descriptor of the launch record. Without it descriptor 3 is the record, or the
// socket from which the record and the caller's descriptors come (handover.h).
#include <cerrno>
#include <charconv>
#include <string>
#include <string_view>
#include <utility>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/init/agent.h"
#include "frontend/init/handover.h"
#include "frontend/init/inside.h"
#include "frontend/init/payload.h"
#include "frontend/init/reaper.h"
#include "frontend/init/record.h"
#include "frontend/message/message.h"
#include "protocol/base/unique_fd.h"
#include "protocol/exit_codes.h"
#include "protocol/limits.h"

namespace postern::init {
namespace {

constexpr int kRecordFd = 3;

[[noreturn]] void die(const Problem& problem) {
  message::fatal(problem);
  ::_exit(problem.exit_code);
}

UniqueFd obtain_record(std::string_view argument) {
  int fd = kRecordFd;
  if (!argument.empty()) {
    std::from_chars(argument.data(), argument.data() + argument.size(), fd);
    return UniqueFd(fd);
  }
  struct stat info = {};
  if (::fstat(fd, &info) != 0 || !S_ISSOCK(info.st_mode)) {
    return UniqueFd(fd);
  }
  Result<UniqueFd> record = take_over(UniqueFd(fd));
  if (!record && record.error().err == ECONNRESET) {
    ::_exit(kExitFatal);  // postern ended before it gave us anything: nobody is left to tell
  }
  if (!record) {
    die(system_problem(
        "taking over the descriptors that were open", record.error().err,
        record.error().err == EMFILE ? "raise `ulimit -n`, or close some of them" : ""));
  }
  return *std::move(record);
}

LaunchRecord read_record(const UniqueFd& fd) {
  struct stat info = {};
  if (::fstat(fd.get(), &info) != 0 || static_cast<std::uint64_t>(info.st_size) > kMaxRecordBytes) {
    die({.what = "postern-init is started by postern, with a launch record"});
  }
  std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
  const ssize_t got = ::pread(fd.get(), bytes.data(), bytes.size(), 0);
  Result<LaunchRecord> record = decode(bytes);
  if (got != info.st_size || !record) {
    die({.what = "the launch record is damaged",
         .cure = "postern and postern-init must be of one version: reinstall"});
  }
  return *std::move(record);
}

// Once, before anything of the image is looked at. What is to be run: in an instance this process
// may be one that has joined.
LaunchRecord begin(LaunchRecord record) {
  if (record.agent >= 0) {
    Outcome<LaunchRecord> own = become_agent(record);
    if (!own) {
      die(std::move(own).error());
    }
    record = *std::move(own);
  } else if (record.reaper) {
    if (const int err = become_reaper(); err != 0) {
      die(system_problem("starting the payload's process", err,
                         "raise `ulimit -u`, or use --no-init"));
    }
  }
  Outcome<> ready = settle(record);
  if (ready) {
    ready = install_filters(record);
  }
  if (!ready) {
    die(std::move(ready).error());
  }
  return record;
}

int run(std::string_view argument) {
  UniqueFd fd = obtain_record(argument);
  LaunchRecord launch = read_record(fd);
  fd.reset();
  message::configure(static_cast<message::Level>(launch.message_level), false);
  const LaunchRecord record = begin(std::move(launch));
  message::configure(static_cast<message::Level>(record.message_level), false);
  ImageEnvironment image = run_environment_scripts(record, shell::Reach::kEverything);
  for (const std::string& warning : image.warnings) {
    message::warning(warning);
  }
  if (image.exit) {
    return *image.exit;
  }
  restore_host(image.environment, record);
  apply_forwarded(image.environment, record, shell::Reach::kEverything);
  finish_search_paths(image.environment, record);
  set_working_directory(image.environment);
  return run_payload(record, image.environment);
}

}  // namespace
}  // namespace postern::init

int main(int argc, char** argv) {
  return postern::init::run(argc > 1 ? argv[1] : "");
}
