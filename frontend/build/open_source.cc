#include "frontend/build/open_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "frontend/build/directory_source.h"
#include "frontend/build/layers.h"
#include "frontend/build/oci_source.h"

namespace postern::build {
namespace {

Outcome<OpenedSource> open_directory(const SourceSpec& spec, const OpenOptions& options) {
  DirectoryOptions skip;
  struct stat status {};
  if (!options.skip_path.empty() && ::stat(options.skip_path.c_str(), &status) == 0 && S_ISREG(status.st_mode)) {
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
  out.files.emplace_back(::open(spec.path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status {};
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
    case SourceKind::kSif:
    case SourceKind::kDefinition:
      break;
  }
  return Problem{.what = "'" + spec.path + "' cannot be a source of files"};
}

}  // namespace postern::build
