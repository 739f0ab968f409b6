#include "frontend/build/build.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "frontend/build/directory_writer.h"
#include "frontend/build/interrupt.h"
#include "frontend/build/layout.h"
#include "frontend/build/open_source.h"
#include "frontend/build/spec.h"
#include "frontend/message/message.h"
#include "frontend/message/progress.h"
#include "policy/sif/writer.h"

namespace postern::build {
namespace {

// Everything that is known once the source was read.
struct Plan {
  OpenedSource opened;
  Tree tree;
  Facts facts;
  Description description;
};

bool confirmed(const std::string& question) {
  if (::isatty(STDIN_FILENO) != 1) {
    return false;
  }
  std::fprintf(stderr, "%s [y/N] ", question.c_str());
  const int answer = std::getchar();
  return answer == 'y' || answer == 'Y';
}

bool looks_like_sandbox(const std::string& path) {
  for (const char* name : {"/.singularity.d", "/dev", "/proc", "/sys"}) {
    if (::access((path + name).c_str(), F_OK) != 0) {
      return false;
    }
  }
  return true;
}

Outcome<> check_target(const BuildOptions& options) {
  struct stat status {};
  if (::lstat(options.output.c_str(), &status) != 0) {
    return errno == ENOENT ? Outcome<>() : system_problem("looking at '" + options.output + "'", errno);
  }
  const bool directory = S_ISDIR(status.st_mode);
  std::error_code unreadable;  // then it is not known to be empty
  const std::string target = "build target '" + options.output + "'";
  if (directory != options.sandbox) {
    return Problem{.what = target + (directory ? " is a directory" : " is not a directory"),
                   .cure = directory ? "name a file, or add --sandbox" : "name a directory, or leave out --sandbox"};
  }
  if (options.force || options.update || (directory && std::filesystem::is_empty(options.output, unreadable))) {
    return {};
  }
  if (directory && !looks_like_sandbox(options.output)) {
    return Problem{.what = target + " is a directory that is no sandbox and not empty",
                   .cure = "use --force to replace it with all that is in it"};
  }
  if (!confirmed("Build target '" + options.output + "' already exists. Replace it?")) {
    return Problem{.what = target + " already exists", .cure = "use --force to replace it"};
  }
  return {};
}

// Times of the tree never exceed SOURCE_DATE_EPOCH; returns the newest that is left.
std::int64_t clamp_times(Tree& tree, const std::optional<std::int64_t>& epoch) {
  std::int64_t newest = 0;
  for (InodeId id = 0; id < tree.size(); ++id) {
    if (epoch) {
      tree[id].mtime = std::min(tree[id].mtime, *epoch);
    }
    newest = std::max(newest, tree[id].mtime);
  }
  return newest;
}

void fix_permissions(Tree& tree) {
  for (InodeId id = 0; id < tree.size(); ++id) {
    Inode& inode = tree[id];
    if (inode.kind == Kind::kDirectory) {
      inode.mode |= 0700;
    } else if (inode.kind == Kind::kFile) {
      inode.mode |= static_cast<std::uint16_t>(0600 | ((inode.mode & 0111) != 0 ? 0100 : 0));
    }
  }
}

// Seconds since 1970 of an RFC 3339 time; nothing where it is none, or the zero time of Go.
std::optional<std::int64_t> time_of(const std::string& text) {
  std::tm utc{};
  const char* rest = ::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &utc);
  if (rest == nullptr) {
    return std::nullopt;
  }
  const std::time_t seconds = ::timegm(&utc);
  return seconds > 0 ? std::optional<std::int64_t>(seconds) : std::nullopt;
}

Outcome<Plan> read_source(const SourceSpec& spec, const BuildOptions& options) {
  Plan plan;
  POSTERN_TRY_ASSIGN(plan.opened, open_source(spec, {.architecture = options.architecture,
                                                     .temporary = options.temporary,
                                                     .skip_path = options.output}));
  POSTERN_TRY_ASSIGN(plan.tree, plan.opened.source->index());
  plan.tree.finish();
  if (options.fix_permissions) {
    fix_permissions(plan.tree);
  }
  plan.facts.bootstrap = bootstrap_name(spec.kind);
  plan.facts.from = spec.reference.empty() ? spec.path : spec.path + ":" + spec.reference;
  plan.facts.newest = clamp_times(plan.tree, options.epoch);
  plan.facts.time = options.epoch ? options.epoch : time_of(plan.opened.config.created);
  if (!sif::parse_name(options.architecture, plan.facts.architecture) &&
      !sif::parse_name(plan.opened.config.architecture, plan.facts.architecture)) {
    plan.facts.architecture = architecture_of(plan.tree, *plan.opened.source);
    if (plan.facts.architecture == sif::Architecture::kUnknown) {
      plan.facts.architecture = sif::host_architecture();
    }
  }
  POSTERN_TRY_ASSIGN(plan.description,
                     complete_layout(plan.tree, *plan.opened.source, plan.opened.config, {}, plan.facts));
  plan.tree.finish();
  return plan;
}

Outcome<> write_sif(Plan& plan, const BuildOptions& options) {
  message::info("Creating SIF file...");
  POSTERN_TRY_ASSIGN(sif::Writer writer, sif::Writer::create(options.output, {.deterministic = true}));
  POSTERN_TRY(writer.add({.type = sif::DataType::kDefinition}, plan.description.definition));
  POSTERN_TRY(writer.add({.type = sif::DataType::kGenericJson, .name = "inspect-metadata.json"},
                         plan.description.inspect));
  const std::string& config = plan.description.oci_config.empty() ? plan.opened.oci_config : plan.description.oci_config;
  if (!config.empty()) {
    POSTERN_TRY(writer.add({.type = sif::DataType::kGenericJson, .name = "oci-config.json"}, config));
  }
  sif::ObjectInput partition;
  partition.type = sif::DataType::kPartition;
  partition.extra = sif::PartitionInfo{.fs = sif::FileSystem::kSquashfs,
                                       .type = sif::PartitionType::kPrimarySystem,
                                       .architecture = plan.facts.architecture};
  POSTERN_TRY_ASSIGN(const std::uint64_t offset, writer.begin(partition));
  SquashOptions squash = options.squash;
  squash.time = plan.facts.time.value_or(plan.facts.newest);
  message::Progress progress("Squashing", plan.opened.source->bytes());
  POSTERN_TRY_ASSIGN(const std::uint64_t bytes,
                     write_squashfs(plan.tree, *plan.opened.source, squash, writer.fd(), offset, progress));
  progress.hide();
  POSTERN_TRY(writer.end(bytes));
  return writer.finish();
}

Outcome<> write_sandbox(Plan& plan, const BuildOptions& options) {
  message::info("Creating sandbox directory...");
  POSTERN_TRY_ASSIGN(NewDirectory directory, NewDirectory::create(options.output));
  message::Progress progress("Unpacking", plan.opened.source->bytes());
  POSTERN_TRY(write_directory(plan.tree, *plan.opened.source, directory.path(), progress));
  return directory.finish();
}

}  // namespace

Outcome<> run_build(const BuildOptions& options) {
  POSTERN_TRY(check_target(options));
  POSTERN_TRY_ASSIGN(const SourceSpec spec, identify_source(options.source));
  POSTERN_TRY_ASSIGN(Plan plan, read_source(spec, options));
  POSTERN_TRY(options.sandbox ? write_sandbox(plan, options) : write_sif(plan, options));
  message::info("Build complete: " + options.output);
  return {};
}

}  // namespace postern::build
