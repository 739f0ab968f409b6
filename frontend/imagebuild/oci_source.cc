#include "frontend/imagebuild/oci_source.h"

#include <algorithm>
#include <cerrno>
#include <map>
#include <optional>
#include <utility>

#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/interrupt.h"
#include "frontend/imagebuild/layers.h"
#include "frontend/imagebuild/oci_json.h"
#include "frontend/imagebuild/stream.h"
#include "frontend/imagebuild/tar_reader.h"
#include "frontend/message/message.h"
#include "frontend/message/progress.h"
#include "frontend/system/scratch_file.h"
#include "policy/sif/format.h"
#include "policy/text/hex.h"

namespace postern::imagebuild {
namespace {

constexpr std::size_t kMaxMembers = 1 << 16;  // of an archive of images
constexpr int kMaxIndexes = 4;                // an index in an index in …
constexpr int kMaxLinks = 8;

// A run of bytes of an open file.
struct Blob {
  int fd = -1;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

// Named blobs: a directory's files or an archive's members.
class Bundle {
 public:
  virtual ~Bundle() = default;
  // Nothing where there is no such name.
  virtual Outcome<std::optional<Blob>> find(const std::string& name) = 0;
  [[nodiscard]] virtual const std::string& path() const = 0;

  std::vector<UniqueFd> files;  // all that blobs refer to
};

class DirectoryBundle : public Bundle {
 public:
  DirectoryBundle(UniqueFd directory, std::string path)
      : directory_(std::move(directory)), path_(std::move(path)) {}

  Outcome<std::optional<Blob>> find(const std::string& name) override {
    open_how how{};
    how.flags = O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    UniqueFd fd(static_cast<int>(
        ::syscall(SYS_openat2, directory_.get(), name.c_str(), &how, sizeof(how))));
    if (!fd.valid()) {
      return errno == ENOENT ? Outcome<std::optional<Blob>>(std::optional<Blob>())
                             : system_problem("opening '" + path_ + "/" + name + "'", errno);
    }
    struct stat status{};
    if (::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
      return Problem{.what = "'" + path_ + "/" + name + "' is not a file"};
    }
    const Blob blob{fd.get(), 0, static_cast<std::uint64_t>(status.st_size)};
    files.push_back(std::move(fd));
    return std::optional<Blob>(blob);
  }

  [[nodiscard]] const std::string& path() const override { return path_; }

 private:
  UniqueFd directory_;
  std::string path_;
};

class ArchiveBundle : public Bundle {
 public:
  explicit ArchiveBundle(std::string path) : path_(std::move(path)) {}

  // Reads the headers of the plain tar `fd` of `size` bytes, which it owns from here.
  Outcome<> open(UniqueFd fd, std::uint64_t size);

  Outcome<std::optional<Blob>> find(const std::string& name) override {
    std::string key = name;
    for (int followed = 0; followed <= kMaxLinks; ++followed) {
      const auto found = members_.find(key);
      if (found == members_.end()) {
        return std::optional<Blob>();
      }
      if (found->second.link.empty()) {
        return std::optional<Blob>(found->second.blob);
      }
      key = found->second.link;
    }
    return Problem{.what = "'" + name + "' in " + path_ + " is a loop of links"};
  }

  [[nodiscard]] const std::string& path() const override { return path_; }

 private:
  struct Member {
    Blob blob;
    std::string link;  // name of the member that this is a link to
  };

  std::string path_;
  std::map<std::string, Member> members_;
};

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) {
    text += (text.empty() ? "" : "/") + part;
  }
  return text;
}

// Where a symbolic link at `name` leads inside the archive: `docker save` writes the layers that
// images share once, and links for the rest.
std::string link_target(const std::string& name, const std::string& target) {
  std::vector<std::string> parts;
  const std::string text = target.starts_with('/') ? target : name + "/../" + target;
  std::size_t start = 0;
  while (start <= text.size()) {
    const std::size_t end = std::min(text.find('/', start), text.size());
    const std::string part = text.substr(start, end - start);
    if (part == "..") {
      if (!parts.empty()) {
        parts.pop_back();
      }
    } else if (!part.empty() && part != ".") {
      parts.push_back(part);
    }
    start = end + 1;
  }
  return joined(parts);
}

bool is_hex64(std::string_view text) {
  return text::is_lower_hex(text, 64);
}

// Members that image archives have; any other name means that the tar is a root file system.
bool plausible_member(const std::vector<std::string>& path) {
  if (path.empty()) {
    return true;
  }
  std::string_view first = path.front();
  for (const std::string_view known :
       {"manifest.json", "repositories", "oci-layout", "index.json", "blobs"}) {
    if (first == known) {
      return true;
    }
  }
  for (const std::string_view suffix : {".json", ".tar"}) {
    if (first.ends_with(suffix)) {
      first.remove_suffix(suffix.size());
    }
  }
  return is_hex64(first);
}

Outcome<> ArchiveBundle::open(UniqueFd fd, std::uint64_t size) {
  FileStream file(fd.get(), 0, size, path_);
  TarReader tar(file, path_);
  while (true) {
    POSTERN_TRY_ASSIGN(const std::optional<TarEntry> entry, tar.next());
    if (!entry) {
      break;
    }
    if (members_.size() >= kMaxMembers) {
      return Problem{.what = path_ + " has more than " + std::to_string(kMaxMembers) + " members"};
    }
    POSTERN_TRY_ASSIGN(const std::vector<std::string> path, split_path(entry->name));
    Member member;
    if (entry->hard_link) {
      POSTERN_TRY_ASSIGN(const std::vector<std::string> target, split_path(entry->link_target));
      member.link = joined(target);
    } else if (entry->inode.kind == Kind::kSymlink) {
      member.link = link_target(joined(path), entry->inode.target);
    } else if (entry->inode.kind == Kind::kFile && !entry->ignored) {
      member.blob = {fd.get(), tar.data_offset(), entry->inode.size};
      if (member.blob.offset > size || member.blob.size > size - member.blob.offset) {
        return Problem{.what = path_ + " is truncated: '" + entry->name + "' is not whole",
                       .cure = "copy or download it again"};
      }
    } else {
      continue;
    }
    members_[joined(path)] = std::move(member);
  }
  files.push_back(std::move(fd));
  return {};
}

// A plain copy of a compressed archive, on disk without a name: its members are needed in an order
// of their own.
Outcome<UniqueFd> plain_copy(int fd,
                             std::uint64_t size,
                             const std::string& name,
                             const std::string& directory,
                             std::uint64_t& bytes) {
  POSTERN_TRY_ASSIGN(UniqueFd copy, system::scratch_file(directory));
  FileStream file(fd, 0, size, name);
  message::Progress progress("Unpacking", size);
  file.on_read([&](std::uint64_t count) { progress.advance(count); });
  DecompressingStream plain(file, name);
  while (true) {
    POSTERN_TRY(check_interrupt());
    POSTERN_TRY_ASSIGN(std::span<const std::byte> piece, plain.next());
    if (piece.empty()) {
      return copy;
    }
    bytes += piece.size();
    while (!piece.empty()) {
      const ssize_t put = ::write(copy.get(), piece.data(), piece.size());
      if (put < 0 && errno == EINTR) {
        continue;
      }
      if (put < 0) {
        return system::scratch_problem(directory, errno);
      }
      piece = piece.subspan(static_cast<std::size_t>(put));
    }
  }
}

// Whether the tar is an archive of images, from as few members as possible.
Outcome<bool> holds_images(int fd, std::uint64_t size, const std::string& name, bool compressed) {
  FileStream file(fd, 0, size, name);
  DecompressingStream plain(file, name);
  TarReader tar(compressed ? static_cast<Stream&>(plain) : file, name);
  bool found = false;
  while (true) {
    POSTERN_TRY_ASSIGN(const std::optional<TarEntry> entry, tar.next());
    if (!entry) {
      return found;
    }
    const auto path = split_path(entry->name);
    if (!path || !plausible_member(*path)) {
      return false;
    }
    found = found || (path->size() == 1 &&
                      (path->front() == "manifest.json" || path->front() == "oci-layout"));
  }
}

Outcome<Blob> need(Bundle& bundle, const std::string& name, const char* what) {
  POSTERN_TRY_ASSIGN(const std::optional<Blob> blob, bundle.find(name));
  if (!blob) {
    return Problem{.what = std::string(what) + " '" + name + "' is not in " + bundle.path(),
                   .cure = "the image is incomplete: save or copy it again"};
  }
  return *blob;
}

std::string blob_name(const std::string& digest) {
  return "blobs/sha256/" + digest.substr(7);
}

// The digest that a member's name promises, or "".
std::string named_digest(const std::string& name) {
  std::string_view last = name;
  if (const std::size_t slash = last.rfind('/'); slash != std::string_view::npos) {
    last.remove_prefix(slash + 1);
  }
  if (name.starts_with("blobs/sha256/") && is_hex64(last)) {
    return "sha256:" + std::string(last);
  }
  if (last == name && last.ends_with(".json") && is_hex64(last.substr(0, last.size() - 5))) {
    return "sha256:" + std::string(last.substr(0, 64));
  }
  return "";
}

// A JSON document. `digest` empty: not checked.
Outcome<std::string> read_document(Bundle& bundle,
                                   const std::string& name,
                                   const std::string& digest,
                                   const char* what) {
  POSTERN_TRY_ASSIGN(const Blob blob, need(bundle, name, what));
  if (blob.size > kMaxDocument) {
    return Problem{.what = std::string(what) + " '" + name + "' in " + bundle.path() + " has " +
                           message::human_bytes(blob.size) + "; " +
                           message::human_bytes(kMaxDocument) + " are allowed"};
  }
  FileStream stream(blob.fd, blob.offset, blob.size, bundle.path());
  std::string text;
  while (true) {
    POSTERN_TRY_ASSIGN(const std::span<const std::byte> piece, stream.next());
    if (piece.empty()) {
      break;
    }
    text.append(reinterpret_cast<const char*>(piece.data()),
                piece.size());  // SAFETY: bytes as text
  }
  if (!digest.empty() && sha256_of(text) != digest) {
    return Problem{.what = std::string(what) + " '" + name + "' in " + bundle.path() +
                           " does not match its digest",
                   .cure = "the image is damaged or was altered: copy or download it again"};
  }
  return text;
}

Outcome<OpenedSource> finish(Bundle& bundle,
                             ParsedConfig parsed,
                             std::vector<Layer> layers,
                             const OpenOptions& options) {
  const std::string& architecture = parsed.config.architecture;
  if (!options.architecture.empty() && !architecture.empty() &&
      architecture != options.architecture) {
    return Problem{.what = "the image is for " + architecture + ", not " + options.architecture +
                           " (" + bundle.path() + ")"};
  }
  if (parsed.diff_ids.size() != layers.size()) {
    return Problem{.what = "the manifest lists " + std::to_string(layers.size()) +
                           " layers, the configuration " + std::to_string(parsed.diff_ids.size()) +
                           " (" + bundle.path() + ")",
                   .cure = "the image is damaged, or was made by a broken tool"};
  }
  for (std::size_t i = 0; i < layers.size(); ++i) {
    layers[i].diff_id = parsed.diff_ids[i];
    layers[i].name = "layer " + std::to_string(i + 1) + " of " + std::to_string(layers.size()) +
                     " in " + bundle.path();
  }
  OpenedSource out;
  out.files = std::move(bundle.files);
  out.config = std::move(parsed.config);
  out.source = layer_source(std::move(layers), {.whiteouts = true});
  return out;
}

Layer layer_at(const Blob& blob, std::string digest) {
  Layer layer;
  layer.fd = blob.fd;
  layer.offset = blob.offset;
  layer.size = blob.size;
  layer.digest = std::move(digest);
  return layer;
}

Outcome<OpenedSource> open_oci(Bundle& bundle, const SourceSpec& spec, const OpenOptions& options) {
  const std::string architecture = options.architecture.empty()
                                       ? std::string(sif::name_of(sif::host_architecture()))
                                       : options.architecture;
  POSTERN_TRY_ASSIGN(std::string index, read_document(bundle, "index.json", "", "image index"));
  std::string reference = spec.reference;
  OciDescriptor chosen;
  for (int depth = 0;; ++depth) {
    POSTERN_TRY_ASSIGN(const std::vector<OciDescriptor> candidates, parse_oci_index(index));
    POSTERN_TRY_ASSIGN(chosen, choose_image(candidates, reference, architecture));
    if (!is_index(chosen.media_type)) {
      break;
    }
    if (depth == kMaxIndexes) {
      return Problem{.what = "the image index in " + bundle.path() + " leads from index to index"};
    }
    POSTERN_TRY_ASSIGN(
        index, read_document(bundle, blob_name(chosen.digest), chosen.digest, "image index"));
    reference.clear();
  }
  POSTERN_TRY_ASSIGN(const std::string text, read_document(bundle, blob_name(chosen.digest),
                                                           chosen.digest, "image manifest"));
  POSTERN_TRY_ASSIGN(const OciManifest manifest, parse_oci_manifest(text));
  POSTERN_TRY_ASSIGN(const std::string config,
                     read_document(bundle, blob_name(manifest.config.digest),
                                   manifest.config.digest, "image configuration"));
  POSTERN_TRY_ASSIGN(ParsedConfig parsed, parse_image_config(config));
  std::vector<Layer> layers;
  for (const OciDescriptor& layer : manifest.layers) {
    POSTERN_TRY_ASSIGN(const Blob blob, need(bundle, blob_name(layer.digest), "layer"));
    if (blob.size != layer.size) {
      return Problem{.what = "layer '" + layer.digest + "' in " + bundle.path() + " has " +
                             std::to_string(blob.size) + " bytes instead of " +
                             std::to_string(layer.size),
                     .cure = "the image is damaged or incomplete: copy or download it again"};
    }
    layers.push_back(layer_at(blob, layer.digest));
  }
  return finish(bundle, std::move(parsed), std::move(layers), options);
}

Outcome<DockerImage> choose_docker(std::vector<DockerImage> images,
                                   const std::string& reference,
                                   const std::string& path) {
  std::string tags;
  for (DockerImage& image : images) {
    for (const std::string& tag : image.tags) {
      tags += (tags.empty() ? "" : ", ") + tag;
      if (!reference.empty() && (tag == reference || tag == reference + ":latest")) {
        return std::move(image);
      }
    }
  }
  if (!reference.empty()) {
    return Problem{.what = path + " has no image '" + reference + "'",
                   .cure = tags.empty() ? "" : "it has: " + tags};
  }
  if (images.size() > 1) {
    return Problem{.what = path + " holds " + std::to_string(images.size()) + " images",
                   .cure = "name one: docker-archive:" + path + ":NAME:TAG; it has: " + tags};
  }
  return std::move(images.front());
}

Outcome<OpenedSource> open_docker(Bundle& bundle,
                                  const SourceSpec& spec,
                                  const OpenOptions& options) {
  POSTERN_TRY_ASSIGN(const std::string text,
                     read_document(bundle, "manifest.json", "", "manifest"));
  POSTERN_TRY_ASSIGN(std::vector<DockerImage> images, parse_docker_manifest(text));
  POSTERN_TRY_ASSIGN(const DockerImage image,
                     choose_docker(std::move(images), spec.reference, bundle.path()));
  POSTERN_TRY_ASSIGN(
      const std::string config,
      read_document(bundle, image.config, named_digest(image.config), "image configuration"));
  POSTERN_TRY_ASSIGN(ParsedConfig parsed, parse_image_config(config));
  std::vector<Layer> layers;
  for (const std::string& name : image.layers) {
    POSTERN_TRY_ASSIGN(const Blob blob, need(bundle, name, "layer"));
    layers.push_back(layer_at(blob, named_digest(name)));
  }
  return finish(bundle, std::move(parsed), std::move(layers), options);
}

}  // namespace

Outcome<OpenedSource> open_oci_layout(const SourceSpec& spec, const OpenOptions& options) {
  UniqueFd directory(::open(spec.path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) {
    return system_problem("opening '" + spec.path + "'", errno);
  }
  DirectoryBundle bundle(std::move(directory), spec.path);
  return open_oci(bundle, spec, options);
}

Outcome<OpenedSource> open_image_archive(const SourceSpec& spec, const OpenOptions& options) {
  UniqueFd fd(::open(spec.path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  struct stat status{};
  if (!fd.valid() || ::fstat(fd.get(), &status) != 0) {
    return system_problem("opening '" + spec.path + "'", errno);
  }
  if (!S_ISREG(status.st_mode)) {
    return Problem{.what = "'" + spec.path + "' is not a file"};
  }
  auto size = static_cast<std::uint64_t>(status.st_size);
  std::string head(16, '\0');
  const ssize_t got = ::pread(fd.get(), head.data(), head.size(), 0);
  head.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  const bool compressed = is_compressed(head);
  if (spec.kind == SourceKind::kTar) {
    POSTERN_TRY_ASSIGN(const bool images, holds_images(fd.get(), size, spec.path, compressed));
    if (!images) {
      return OpenedSource{};
    }
  }
  if (compressed) {
    std::uint64_t plain = 0;
    POSTERN_TRY_ASSIGN(fd, plain_copy(fd.get(), size, spec.path, options.temporary, plain));
    size = plain;
  }
  ArchiveBundle bundle(spec.path);
  POSTERN_TRY(bundle.open(std::move(fd), size));
  POSTERN_TRY_ASSIGN(const std::optional<Blob> manifest, bundle.find("manifest.json"));
  if (spec.kind == SourceKind::kDockerArchive || (spec.kind == SourceKind::kTar && manifest)) {
    return open_docker(bundle, spec, options);
  }
  return open_oci(bundle, spec, options);
}

}  // namespace postern::imagebuild
