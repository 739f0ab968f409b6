#include "frontend/imagebuild/fetch.h"

#include <array>
#include <cerrno>
#include <ctime>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/registry_source.h"
#include "frontend/message/message.h"
#include "frontend/message/progress.h"
#include "frontend/net/digest.h"
#include "frontend/system/scratch_file.h"
#include "policy/sif/format.h"
#include "policy/sif/reader.h"

namespace postern::imagebuild {
namespace {

constexpr std::string_view kSifLayer = "application/vnd.sylabs.sif.layer.v1.sif";
constexpr std::string_view kOldSifLayer = "appliciation/vnd.sylabs.sif.layer.tar";  // misspelt so

// Where a file goes: an entry of the cache, or a file without a name.
class Place {
 public:
  static Outcome<Place> open(Remote& remote,
                             cache::Type type,
                             const std::string& key,
                             const std::string& temporary) {
    POSTERN_TRY_ASSIGN(cache::Cache* const cache, remote.cache());
    Place out;
    if (cache->enabled()) {
      POSTERN_TRY_ASSIGN(cache::Claim claim, cache->claim(type, key));
      out.claim_.emplace(std::move(claim));
      return out;
    }
    POSTERN_TRY_ASSIGN(out.file_, system::scratch_file(temporary));
    out.temporary_ = temporary;
    return out;
  }

  [[nodiscard]] Problem unwritable(int err) const {
    return claim_ ? claim_->unwritable(err) : system::scratch_problem(temporary_, err);
  }

  [[nodiscard]] bool ready() const { return claim_ && claim_->ready(); }

  [[nodiscard]] int fd() const { return claim_ ? claim_->fd() : file_.get(); }

  [[nodiscard]] Outcome<std::uint64_t> present() const {
    return claim_ ? claim_->size() : Outcome<std::uint64_t>(0);
  }

  // An entry whose bytes are not `hex` any more is taken away.
  Outcome<> check(const std::string& hex) {
    if (claim_->state() == cache::State::kUnchanged) {
      return Ok{};
    }
    POSTERN_TRY_ASSIGN(const std::uint64_t size, claim_->size());
    POSTERN_TRY_ASSIGN(const std::string found, net::sha256_of_file(claim_->fd(), size));
    if (found == hex) {
      claim_->mark();
      return Ok{};
    }
    message::warning("the cache's entry " + claim_->path() + " is damaged: fetching it anew");
    return claim_->replace();
  }

  Outcome<> commit() { return claim_ ? claim_->commit() : Outcome<>(); }

  void discard() {
    if (claim_) {
      claim_->discard();
    }
  }

  Outcome<Fetched> take(bool cached, std::string digest) {
    Fetched out;
    out.fd.reset(::fcntl(fd(), F_DUPFD_CLOEXEC, 3));
    if (!out.fd.valid()) {
      return system_problem("keeping the image open", errno);
    }
    out.path = claim_ ? claim_->path() : "/proc/self/fd/" + std::to_string(out.fd.get());
    out.digest = std::move(digest);
    out.cached = cached;
    return out;
  }

 private:
  std::optional<cache::Claim> claim_;
  UniqueFd file_;
  std::string temporary_;  // the directory of `file_`
};

// Fetches one body into `place`; `digest` empty: not known. Returns its digest.
Outcome<std::string> fill(Remote& remote,
                          Place& place,
                          net::Request request,
                          std::uint64_t size,
                          const std::string& digest,
                          const std::string& what) {
  net::FileSink sink(place.fd(), size, digest, [&](int err) { return place.unwritable(err); });
  // Only what has a digest can be taken up where another process was cut.
  if (!digest.empty()) {
    POSTERN_TRY_ASSIGN(const std::uint64_t present, place.present());
    POSTERN_TRY(sink.resume(present));
  }
  const bool resumed = sink.position() > 0;
  if (sink.position() < size) {
    request.sink = &sink;
    const auto answer = remote.session().client().perform(request);
    if (!answer) {
      if (sink.refused()) {
        place.discard();
      }
      return answer.error();
    }
    if (answer->status == 404) {
      return Problem{.what = "the requested image was not found", .cure = "check " + what};
    }
    if (answer->status != 200 && answer->status != 206) {
      return net::unexpected_answer("fetching " + what, *answer);
    }
  }
  auto found = sink.finish();
  if (!found) {
    place.discard();
    if (resumed) {
      message::verbose("what an earlier run had fetched was damaged");
    }
  }
  return found;
}

// What is fetched as a SIF must be one.
Outcome<> check_sif(int fd, const std::string& name) {
  Snapshot bytes(fd);
  if (auto image = sif::read(bytes); !image) {
    return Problem{.what = name + " is not a SIF: " + image.error().what};
  }
  return Ok{};
}

Outcome<Fetched> fetch_oras(Remote& remote, const SourceSpec& spec, const OpenOptions& options) {
  POSTERN_TRY_ASSIGN(const net::Reference reference, net::parse_reference(spec.path));
  POSTERN_TRY_ASSIGN(net::Registry registry, net::Registry::open(remote.session(), reference));
  POSTERN_TRY_ASSIGN(const ChosenManifest chosen, choose_manifest(registry, options));
  POSTERN_TRY(remote.check_signature(registry, chosen.digest));
  POSTERN_TRY_ASSIGN(const OciManifest manifest, parse_oci_manifest(chosen.document.bytes));
  if (manifest.layers.size() != 1) {
    return Problem{.what = "ORAS SIF image should have a single layer, found " +
                           std::to_string(manifest.layers.size()),
                   .cure = "it is an ordinary container image: use docker:// instead of oras://"};
  }
  const OciDescriptor& layer = manifest.layers.front();
  if (layer.media_type != kSifLayer && layer.media_type != kOldSifLayer) {
    return Problem{
        .what = "invalid layer mediatype: " + layer.media_type.substr(0, 100),
        .cure = is_tar_layer(layer.media_type)
                    ? "it is an ordinary container image: use docker:// instead of oras://"
                    : "it is not a SIF image"};
  }
  POSTERN_TRY_ASSIGN(Place place,
                     Place::open(remote, cache::Type::kOras, layer.digest, options.temporary));
  if (place.ready()) {
    POSTERN_TRY(place.check(layer.digest.substr(7)));
  }
  const bool cached = place.ready();
  if (!cached) {
    message::info("Downloading oras image");
    POSTERN_TRY(fill(remote, place, registry.blob_request(layer.digest), layer.size, layer.digest,
                     reference.name()));
    if (auto good = check_sif(place.fd(), reference.name()); !good) {
      place.discard();
      return std::move(good).error();
    }
    POSTERN_TRY(place.commit());
  } else {
    message::info("Using cached SIF image");
  }
  return place.take(cached, chosen.digest);
}

Outcome<Fetched> fetch_library(Remote& remote, const SourceSpec& spec, const OpenOptions& options) {
  POSTERN_TRY_ASSIGN(const net::LibraryReference reference,
                     net::parse_library_reference(spec.path));
  POSTERN_TRY_ASSIGN(net::Library library, remote.library(reference));
  const std::string architecture = options.architecture.empty()
                                       ? std::string(sif::name_of(sif::host_architecture()))
                                       : options.architecture;
  POSTERN_TRY_ASSIGN(const std::optional<net::LibraryImage> image,
                     library.image(reference.path, reference.tag, architecture));
  if (!image) {
    return Problem{.what = "image does not exist in the library: " + reference.path + ":" +
                           reference.tag + " (" + architecture + ")",
                   .cure = "check the name and the tag (postern search)"};
  }
  const std::string hex = image->hash.substr(image->hash.find('.') + 1);
  POSTERN_TRY_ASSIGN(Place place,
                     Place::open(remote, cache::Type::kLibrary, image->hash, options.temporary));
  if (place.ready()) {
    POSTERN_TRY(place.check(hex));
  }
  const bool cached = place.ready();
  message::info(cached ? "Using cached image" : "Downloading library image");
  if (!cached) {
    auto filled =
        fill(remote, place, library.file_request(reference.path, reference.tag, architecture),
             image->size != 0 ? image->size : net::kUnknownSize, "sha256:" + hex,
             reference.path + ":" + reference.tag);
    if (!filled) {
      Problem problem = std::move(filled).error();
      const std::size_t got = problem.what.find("got \"sha256:");
      if (problem.what.starts_with("error verifying") && got != std::string::npos) {
        problem.what = "cached file hash(sha256." + problem.what.substr(got + 12, 64) +
                       ") and expected hash(" + image->hash + ") does not match";
      }
      return problem;
    }
    if (auto good = check_sif(place.fd(), reference.path); !good) {
      place.discard();
      return std::move(good).error();
    }
    POSTERN_TRY(place.commit());
  }
  return place.take(cached, "sha256:" + hex);
}

// An image file of a web server, which promises nothing about its bytes: the cache tells one
// version from another by what the server says about the last change.
Outcome<Fetched> fetch_http(Remote& remote, const SourceSpec& spec, const OpenOptions& options) {
  POSTERN_TRY_ASSIGN(const net::Answer head,
                     remote.session().client().perform({.method = "HEAD", .url = spec.path}));
  const std::string* modified = head.header("last-modified");
  const std::string* tag = head.header("etag");
  const std::string version = modified != nullptr ? *modified
                              : tag != nullptr
                                  ? *tag
                                  : std::to_string(std::time(nullptr)) + std::to_string(::getpid());
  POSTERN_TRY_ASSIGN(Place place,
                     Place::open(remote, cache::Type::kNet, net::sha256_hex(spec.path + version),
                                 options.temporary));
  const bool cached = place.ready();
  if (cached) {
    message::verbose("Using cached image");
    return place.take(true, "");
  }
  message::info("Downloading network image");
  POSTERN_TRY_ASSIGN(const std::string digest,
                     fill(remote, place, {.url = spec.path}, net::kUnknownSize, "", spec.path));
  POSTERN_TRY(place.commit());
  return place.take(false, digest);
}

}  // namespace

Outcome<Fetched> fetch_image(Remote& remote, const SourceSpec& spec, const OpenOptions& options) {
  switch (spec.kind) {
    case SourceKind::kOras:
      return fetch_oras(remote, spec, options);
    case SourceKind::kHttp:
      return fetch_http(remote, spec, options);
    case SourceKind::kLibrary:
      return fetch_library(remote, spec, options);
    case SourceKind::kDocker:
    case SourceKind::kDirectory:
    case SourceKind::kTar:
    case SourceKind::kSquashfs:
    case SourceKind::kSif:
    case SourceKind::kDockerArchive:
    case SourceKind::kOciArchive:
    case SourceKind::kOciLayout:
    case SourceKind::kDefinition:
      break;
  }
  return Problem{.what = "'" + spec.path + "' is not fetched as a file"};
}

}  // namespace postern::imagebuild
