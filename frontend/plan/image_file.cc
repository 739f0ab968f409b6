#include "frontend/plan/image_file.h"

#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/plan/bind.h"
#include "policy/image/image.h"
#include "policy/path/open_for_change.h"
#include "policy/seal/seal.h"

namespace postern::plan {
namespace {

constexpr std::array<std::string_view, 12> kSchemes = {
    "docker",         "oci",         "library",       "shub", "oras",    "http", "https",
    "docker-archive", "oci-archive", "docker-daemon", "ipfs", "instance"};

// The scheme of "scheme:rest" among those that Apptainer knows, or nothing.
std::string_view scheme_of(std::string_view text) {
  const auto colon = text.find(':');
  for (const std::string_view scheme : kSchemes) {
    if (colon != text.npos && text.substr(0, colon) == scheme) {
      return scheme;
    }
  }
  return {};
}

Problem uri_problem(const std::string& given, std::string_view scheme) {
  if (scheme == "instance") {
    return Problem{.what = given + " is an instance that runs, not an image",
                   .cure = "processes are started in it with postern exec, run, shell and test"};
  }
  return Problem{.what = given + " is not fetched here",
                 .cure = "fetch it first: postern pull " + given};
}

Outcome<UniqueFd> open_file(const std::string& path, std::string_view what) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (file.valid()) {
    return file;
  }
  return path_problem(std::string(what) + ' ' + path, errno, "check the path");
}

Problem named(const std::string& path, Problem problem) {
  problem.what = path + ": " + problem.what;
  return problem;
}

// The tree that a sealed partition's blocks are checked against.
Outcome<std::optional<VerityGeometry>> seal_of(const sif::Image& sif,
                                               Snapshot& bytes,
                                               std::uint32_t object) {
  POSTERN_TRY_ASSIGN(const sif::Descriptor* partition, sif.object(object));
  return seal::find_seal(sif, bytes, *partition);
}

// A descriptor of its own for each server: they are handed to different processes.
Outcome<ImageServer> server_of(const std::string& path, int file, const sif::Extent& extent) {
  UniqueFd own(::fcntl(file, F_DUPFD_CLOEXEC, 3));
  if (!own.valid()) {
    return system_problem("opening " + path + " again", errno);
  }
  return ImageServer{
      .path = path, .image = std::move(own), .offset = extent.offset, .bytes = extent.bytes};
}

// As Apptainer locks such an image: a byte range shared by readers, and one writer alone. The lock
// belongs to the open file, and so to whoever serves it (fcntl(2)).
Outcome<> lock_ext(const ImageServer& server) {
  struct flock lock = {};
  lock.l_type = server.writable ? F_WRLCK : F_RDLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(server.offset);
  lock.l_len = static_cast<off_t>(server.bytes);
  if (::fcntl(server.image.get(), F_OFD_SETLK, &lock) == 0 || errno == ENOLCK ||
      errno == EOPNOTSUPP) {
    return Ok{};
  }
  return Problem{
      .what =
          server.path + (server.writable ? ": cannot be opened for writing, another process uses it"
                                         : ": another process writes to it"),
      .cure = "wait until that has ended, or, if both only read, add :ro to both"};
}

// A descriptor of its own, since the lock is one of the open file.
Outcome<ImageServer> ext_server(const std::string& path, const sif::Extent& extent) {
  ImageServer server = {
      .served = Served::kExt, .path = path, .offset = extent.offset, .bytes = extent.bytes};
  POSTERN_TRY_ASSIGN(server.image, open_file(path, "image"));
  return server;
}

Outcome<> check_architecture(const OpenImage& image, sif::Architecture architecture) {
  auto fits = image::check_architecture(architecture);
  return fits ? Outcome<>(Ok{}) : named(image.path, std::move(fits).error());
}

Outcome<> take_ext_root(OpenImage& image, const image::ExtRoot& ext) {
  image.sif = ext.architecture.has_value();
  if (image.sif) {
    POSTERN_TRY(check_architecture(image, *ext.architecture));
  }
  POSTERN_TRY_ASSIGN(image.root, ext_server(image.path, ext.extent));
  return Ok{};
}

Outcome<> take_gocryptfs_root(OpenImage& image,
                              const image::GocryptfsRoot& container,
                              int file,
                              Snapshot& bytes) {
  POSTERN_TRY(check_architecture(image, container.architecture));
  image.sif = image.encrypted = true;
  POSTERN_TRY_ASSIGN(image.root, server_of(image.path, file, container.extent));
  image.root->gocryptfs = true;
  POSTERN_TRY_ASSIGN(image.root->verity, seal_of(container.sif, bytes, container.object));
  return Ok{};
}

Outcome<> take_squashfs_root(OpenImage& image, int file, Snapshot& bytes) {
  auto info = image::identify(bytes);
  if (!info) {
    return named(image.path, std::move(info).error());
  }
  image.sif = info->kind == image::Kind::kSif;
  if (image.sif) {
    POSTERN_TRY(check_architecture(image, info->architecture));
  }
  image.encrypted = info->encrypted;
  POSTERN_TRY_ASSIGN(image.root, server_of(image.path, file, info->extent));
  if (image.sif) {
    auto verity = seal_of(*info->sif, bytes, info->root_object);
    if (!verity) {
      return named(image.path, std::move(verity).error());
    }
    image.root->verity = *verity;
  }
  for (const image::Overlay& overlay : info->overlays) {
    if (overlay.fs == sif::FileSystem::kSquashfs) {
      POSTERN_TRY_ASSIGN(ImageServer layer, server_of(image.path, file, overlay.extent));
      POSTERN_TRY_ASSIGN(layer.verity, seal_of(*info->sif, bytes, overlay.object));
      image.overlays.push_back(std::move(layer));
    } else {
      POSTERN_TRY_ASSIGN(ImageServer layer, ext_server(image.path, overlay.extent));
      image.overlays.push_back(std::move(layer));
    }
  }
  return Ok{};
}

}  // namespace

Outcome<bool> open_for_writing(ImageServer& server) {
  auto file = path::open_for_change(server.path, O_RDWR | O_NONBLOCK);
  if (!file) {
    return false;
  }
  server.image = *std::move(file);
  server.writable = true;
  return true;
}

Outcome<> lock_images(LaunchPlan& plan) {
  for (const ImageServer& server : plan.servers) {
    if (server.served == Served::kExt) {
      POSTERN_TRY(lock_ext(server));
    }
  }
  return Ok{};
}

Outcome<OpenImage> open_image(const std::string& given, const std::string& directory) {
  OpenImage image;
  image.path = absolute_path(given, directory);
  struct stat status = {};
  const bool exists = ::stat(image.path.c_str(), &status) == 0;
  if (const auto scheme = scheme_of(given); !exists && !scheme.empty()) {
    return uri_problem(given, scheme);
  }
  if (exists && S_ISDIR(status.st_mode)) {
    if (::access(image.path.c_str(), X_OK) != 0) {
      return path_problem("image directory " + image.path, errno, "check the path");
    }
    image.directory = true;
    return image;
  }
  if (exists && !S_ISREG(status.st_mode)) {
    return Problem{.what = "image " + image.path + " is neither a file nor a directory"};
  }
  POSTERN_TRY_ASSIGN(const UniqueFd file, open_file(image.path, "image"));
  Snapshot bytes(file.get());
  if (const auto ext = image::find_ext_root(bytes)) {
    POSTERN_TRY(take_ext_root(image, *ext));
    return image;
  }
  if (const auto container = image::find_gocryptfs_root(bytes)) {
    POSTERN_TRY(take_gocryptfs_root(image, *container, file.get(), bytes));
    return image;
  }
  POSTERN_TRY(take_squashfs_root(image, file.get(), bytes));
  return image;
}

Outcome<ImageServer> open_data_image(const std::string& path, std::optional<std::uint32_t> object) {
  POSTERN_TRY_ASSIGN(const UniqueFd file, open_file(path, "image"));
  struct stat status = {};
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return Problem{.what = path + " is not an image file"};
  }
  sif::Extent extent{.offset = 0, .bytes = static_cast<std::uint64_t>(status.st_size)};
  std::optional<VerityGeometry> verity;
  Snapshot bytes(file.get());
  if (auto sif = sif::read(bytes)) {
    const sif::Descriptor* chosen = nullptr;
    unsigned candidates = 0;
    for (const sif::Descriptor& descriptor : sif->descriptors()) {
      const auto* partition = descriptor.partition();
      const bool wanted =
          object ? descriptor.id == *object
                 : partition != nullptr && partition->type == sif::PartitionType::kData;
      if (wanted && partition != nullptr) {
        chosen = &descriptor;
        ++candidates;
      }
    }
    if (candidates != 1) {
      return Problem{
          .what = path + (object ? ": object " + std::to_string(*object) + " is no partition"
                                 : ": " + std::to_string(candidates) + " data partitions"),
          .cure = "choose one with id=N; `postern sif list` shows the numbers"};
    }
    auto where = sif->extent_of(*chosen);
    if (!where) {
      return named(path, std::move(where).error());
    }
    extent = *where;
    POSTERN_TRY_ASSIGN(verity, seal::find_seal(*sif, bytes, *chosen));
  }
  if (image::is_ext_file_system(bytes, extent)) {
    return ext_server(path, extent);
  }
  auto info = image::identify_squashfs(bytes, extent);
  if (!info) {
    return named(path, std::move(info).error());
  }
  POSTERN_TRY_ASSIGN(ImageServer server, server_of(path, file.get(), info->extent));
  server.verity = verity;
  return server;
}

}  // namespace postern::plan
