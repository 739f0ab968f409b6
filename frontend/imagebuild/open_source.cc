#include "frontend/imagebuild/open_source.h"

#include <cerrno>
#include <string_view>
#include <utility>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/directory_source.h"
#include "frontend/imagebuild/fetch.h"
#include "frontend/imagebuild/layers.h"
#include "frontend/imagebuild/oci_source.h"
#include "frontend/imagebuild/registry_source.h"
#include "frontend/imagebuild/squash_source.h"
#include "policy/sif/reader.h"

namespace postern::imagebuild {
namespace {

Outcome<OpenedSource> open_directory(const SourceSpec& spec, const OpenOptions& options) {
  DirectoryOptions skip;
  skip.owners = caller_is_root();
  struct stat status{};
  if (!options.skip_path.empty() && ::stat(options.skip_path.c_str(), &status) == 0 &&
      S_ISREG(status.st_mode)) {
    skip.skip_device = status.st_dev;
    skip.skip_inode = status.st_ino;
  }
  OpenedSource out;
  POSTERN_TRY_ASSIGN(out.source, directory_source(spec.path, skip));
  return out;
}

Outcome<OpenedSource> open_tar(const SourceSpec& spec, const OpenOptions& options) {
  POSTERN_TRY_ASSIGN(OpenedSource images, open_image_archive(spec, options));
  if (images.source) {
    return images;
  }
  OpenedSource out;
  out.files.emplace_back(::open(spec.path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  struct stat status{};
  if (!out.files[0].valid() || ::fstat(out.files[0].get(), &status) != 0) {
    return system_problem("opening '" + spec.path + "'", errno);
  }
  Layer layer;
  layer.fd = out.files[0].get();
  layer.size = static_cast<std::uint64_t>(status.st_size);
  layer.name = spec.path;
  out.source = layer_source({std::move(layer)}, {.whiteouts = false});
  return out;
}

// Where squashfs starts: behind the launch script that some tools put before it.
std::uint64_t squashfs_start(std::string_view head) {
  if (!head.starts_with("#!")) {
    return 0;
  }
  const std::size_t end = head.find('\n');
  const bool launch = end != std::string_view::npos &&
                      head.substr(0, end).find(" run-singularity") != std::string_view::npos;
  return launch ? end + 1 : 0;
}

Outcome<OpenedSource> open_squashfs(const SourceSpec& spec) {
  OpenedSource out;
  out.files.emplace_back(::open(spec.path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  const int fd = out.files[0].get();
  struct stat status{};
  std::string head(2048, '\0');
  const ssize_t got = out.files[0].valid() && ::fstat(fd, &status) == 0
                          ? ::pread(fd, head.data(), head.size(), 0)
                          : -1;
  if (got < 0) {
    return system_problem("opening '" + spec.path + "'", errno);
  }
  head.resize(static_cast<std::size_t>(got));
  const std::uint64_t start = squashfs_start(head);
  POSTERN_TRY_ASSIGN(
      out.source,
      squash_source(fd, start, static_cast<std::uint64_t>(status.st_size) - start, spec.path));
  return out;
}

Outcome<OpenedSource> open_sif(const SourceSpec& spec) {
  constexpr std::uint64_t kMaxConfig = std::uint64_t{4} << 20;
  OpenedSource out;
  out.files.emplace_back(::open(spec.path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!out.files[0].valid()) {
    return system_problem("opening '" + spec.path + "'", errno);
  }
  const int fd = out.files[0].get();
  Snapshot bytes(fd);
  POSTERN_TRY_ASSIGN(const sif::Image image, sif::read(bytes));
  POSTERN_TRY_ASSIGN(const sif::Descriptor* const primary, image.primary_partition());
  const sif::FileSystem fs = primary->partition()->fs;
  if (fs == sif::FileSystem::kLuksSquashfs || fs == sif::FileSystem::kGocryptfsSquashfs) {
    return Problem{.what = "the image '" + spec.path + "' is encrypted",
                   .cure = "decrypt it first: postern decrypt " + spec.path};
  }
  if (fs != sif::FileSystem::kSquashfs) {
    return Problem{.what = "the root file system of '" + spec.path + "' is " +
                           std::string(sif::name_of(fs)) + ", not squashfs",
                   .cure = "unpack it with the tool that made it and build from the directory"};
  }
  POSTERN_TRY_ASSIGN(const sif::Extent extent, image.extent_of(*primary));
  if (const sif::Descriptor* config = image.find(sif::DataType::kGenericJson, "oci-config.json");
      config != nullptr) {
    POSTERN_TRY_ASSIGN(out.oci_config, sif::read_object(bytes, image, *config, kMaxConfig));
  }
  POSTERN_TRY_ASSIGN(out.source, squash_source(fd, extent.offset, extent.bytes, spec.path));
  return out;
}

// A file that was fetched may be any kind of image: the web server's is what the user says it is.
Outcome<OpenedSource> open_fetched(const SourceSpec& spec, const OpenOptions& options) {
  if (options.remote == nullptr) {
    return Problem{.what = "'" + spec.path + "' is not on this machine"};
  }
  POSTERN_TRY_ASSIGN(Fetched fetched, fetch_image(*options.remote, spec, options));
  POSTERN_TRY_ASSIGN(SourceSpec local, identify_source(fetched.path));
  if (local.kind == SourceKind::kDefinition || local.kind == SourceKind::kDirectory) {
    return Problem{.what = "'" + spec.path + "' is not an image"};
  }
  POSTERN_TRY_ASSIGN(OpenedSource out, open_source(local, options));
  out.files.push_back(std::move(fetched.fd));
  return out;
}

}  // namespace

Outcome<OpenedSource> open_source(const SourceSpec& spec, const OpenOptions& options) {
  switch (spec.kind) {
    case SourceKind::kDirectory:
      return open_directory(spec, options);
    case SourceKind::kTar:
      return open_tar(spec, options);
    case SourceKind::kDockerArchive:
    case SourceKind::kOciArchive:
      return open_image_archive(spec, options);
    case SourceKind::kOciLayout:
      return open_oci_layout(spec, options);
    case SourceKind::kSquashfs:
      return open_squashfs(spec);
    case SourceKind::kSif:
      return open_sif(spec);
    case SourceKind::kDocker:
      return open_registry_image(spec, options);
    case SourceKind::kOras:
    case SourceKind::kLibrary:
    case SourceKind::kHttp:
      return open_fetched(spec, options);
    case SourceKind::kDefinition:
      break;
  }
  return Problem{.what = "'" + spec.path + "' cannot be a source of files"};
}

}  // namespace postern::imagebuild
