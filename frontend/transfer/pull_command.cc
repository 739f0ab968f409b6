// pull: an image from elsewhere to a file. fetch: the same for a program that starts it
// (bin/postern).
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/build.h"
#include "frontend/imagebuild/interrupt.h"
#include "frontend/message/message.h"
#include "frontend/net/reference.h"
#include "frontend/system/scratch_file.h"
#include "frontend/transfer/command.h"
#include "frontend/transfer/image.h"
#include "frontend/transfer/options.h"
#include "frontend/transfer/output.h"
#include "frontend/transfer/verify.h"

namespace postern::transfer {
namespace {

using imagebuild::SourceKind;

// Where the image goes: --name, else the first of two operands, else by the URI; below --dir.
Outcome<std::string> target_of(const option::Arguments& arguments, const std::string& uri) {
  std::string name(arguments.text("name"));
  if (name.empty() && arguments.positional().size() == 2) {
    name = arguments.positional()[0];
  }
  if (name.empty()) {
    POSTERN_TRY_ASSIGN(name, net::file_name_of(uri));
  }
  const std::string directory(arguments.text("dir"));
  return directory.empty() ? name : directory + "/" + name;
}

Outcome<> check_target(const std::string& target, bool force, bool sandbox) {
  struct stat status{};
  if (::lstat(target.c_str(), &status) != 0) {
    return errno == ENOENT ? Outcome<>() : system_problem("looking at '" + target + "'", errno);
  }
  if (!force) {
    return Problem{.what = "Image file already exists: \"" + target + "\" - will not overwrite",
                   .cure = "add --force, or name another file"};
  }
  if (S_ISDIR(status.st_mode) && !sandbox) {
    return Problem{.what = "'" + target + "' is a directory", .cure = "name a file"};
  }
  return Ok{};
}

Outcome<> pull(const option::Arguments& arguments) {
  const std::string& uri = arguments.positional().back();
  POSTERN_TRY_ASSIGN(const imagebuild::SourceSpec spec, spec_of(uri));
  POSTERN_TRY_ASSIGN(const std::string target, target_of(arguments, uri));
  const bool sandbox = arguments.given("sandbox");
  POSTERN_TRY(check_target(target, arguments.given("force"), sandbox));
  POSTERN_TRY_ASSIGN(const std::shared_ptr<imagebuild::Remote> remote, remote_of(arguments, kPull));
  POSTERN_TRY_ASSIGN(imagebuild::BuildOptions options, build_options_of(arguments, remote));
  const auto say_where = [&](Problem problem) {
    problem.what = pulling(spec.kind) + problem.what;
    return problem;
  };
  if (sandbox) {
    options.output = target;
    options.source = uri;
    options.sandbox = true;
    auto done = imagebuild::run_build(options);
    return done ? Outcome<>() : say_where(std::move(done).error());
  }
  auto image = provide_image(uri, options, target);
  if (!image) {
    return say_where(std::move(image).error());
  }
  if (image->path != target) {
    POSTERN_TRY(copy_out(image->fd.get(), target));
  }
  if (spec.kind == SourceKind::kOras) {
    message::info("Digest: " + image->digest);
  }
  // The image stays, and the exit status is 0: who wants more asks `postern verify`.
  if (spec.kind == SourceKind::kLibrary) {
    if (const std::string why = why_unverified(target); !why.empty()) {
      message::warning(why);
      message::warning("Skipping container verification");
    }
  }
  return Ok{};
}

// A file that ends with the process that asked for it: bin/postern opens it and takes its name
// away.
Outcome<std::string> scratch_file(const std::string& directory) {
  std::string path = directory + "/postern-image-XXXXXX";
  const int fd = ::mkostemp(path.data(), O_CLOEXEC);
  if (fd < 0) {
    return system::scratch_problem(directory, errno);
  }
  ::close(fd);
  return path;
}

Outcome<> fetch(const option::Arguments& arguments) {
  const std::string& uri = arguments.positional().front();
  POSTERN_TRY_ASSIGN(const std::shared_ptr<imagebuild::Remote> remote,
                     remote_of(arguments, kFetch));
  POSTERN_TRY_ASSIGN(const imagebuild::BuildOptions options, build_options_of(arguments, remote));
  POSTERN_TRY_ASSIGN(cache::Cache* const cache, remote->cache());
  std::string scratch;
  if (!cache->enabled()) {
    POSTERN_TRY_ASSIGN(scratch, scratch_file(options.temporary));
  }
  auto image = provide_image(uri, options, scratch);
  if (image && !scratch.empty() && image->path != scratch) {
    auto copied = copy_out(image->fd.get(), scratch);
    image = copied ? std::move(image) : Outcome<imagebuild::Fetched>(std::move(copied).error());
  }
  if (!image) {
    if (!scratch.empty()) {
      ::unlink(scratch.c_str());
    }
    Problem problem = std::move(image).error();
    problem.what = "Unable to handle " + uri + " uri: " + problem.what;
    return problem;
  }
  // Whoever asked may have another directory.
  std::error_code unknown;
  const std::string path =
      std::filesystem::absolute(scratch.empty() ? image->path : scratch, unknown).string();
  const std::string line = (scratch.empty() ? "keep " : "once ") + path + "\n";
  std::fputs(line.c_str(), stdout);
  return Ok{};
}

}  // namespace

int fail(Problem problem, std::string_view prefix) {
  problem.what = std::string(prefix) + problem.what;
  message::fatal(problem);
  return problem.exit_code;
}

std::string pulling(imagebuild::SourceKind kind) {
  switch (kind) {
    case SourceKind::kLibrary:
      return "While pulling library image: error fetching image: ";
    case SourceKind::kOras:
      return "While pulling image from oci registry: error fetching image to cache: ";
    case SourceKind::kHttp:
      return "While pulling from image from http(s): error fetching image to cache: ";
    case SourceKind::kDocker:
    case SourceKind::kDockerArchive:
    case SourceKind::kOciArchive:
    case SourceKind::kOciLayout:
      return "While making image from oci registry: error fetching image to cache: ";
    case SourceKind::kDirectory:
    case SourceKind::kTar:
    case SourceKind::kSquashfs:
    case SourceKind::kSif:
    case SourceKind::kDefinition:
      break;
  }
  return {};
}

int run(const option::Usage& usage,
        std::span<const std::string> words,
        Outcome<> (*act)(const option::Arguments& arguments)) {
  const auto arguments = option::parse_command(usage, words);
  if (!arguments) {
    return arguments.error();
  }
  for (const std::string& warning : arguments->warnings()) {
    message::warning(warning);
  }
  for (const std::string& note : arguments->notes()) {
    message::verbose(note);
  }
  const imagebuild::InterruptGuard guard;
  auto done = act(*arguments);
  return done ? 0 : fail(std::move(done).error());
}

int pull_command(std::span<const std::string> words) {
  return run(
      {"pull", "[options] [OUTPUT] URI", "Fetch an image into a file", options(), kPull, 1, 2},
      words, pull);
}

int fetch_command(std::span<const std::string> words) {
  return run({"fetch", "[options] URI", "Fetch an image for a start", options(), kFetch, 1, 1},
             words, fetch);
}

}  // namespace postern::transfer
