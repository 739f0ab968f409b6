#include "frontend/transfer/image.h"

#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/imagebuild/build.h"
#include "frontend/imagebuild/registry_source.h"
#include "frontend/message/message.h"
#include "frontend/net/digest.h"
#include "policy/sif/reader.h"

namespace postern::transfer {
namespace {

using imagebuild::SourceKind;

std::string platform_of(const imagebuild::BuildOptions& options) {
  return (options.architecture.empty() ? std::string(sif::name_of(sif::host_architecture()))
                                       : options.architecture) +
         options.variant;
}

// A converted image has no digest of its own to be checked against: its mark says that nothing has
// touched it, and where no marks are kept, it must at least be a whole SIF.
bool is_good(const cache::Claim& claim) {
  switch (claim.state()) {
    case cache::State::kUnchanged:
      return true;
    case cache::State::kChanged:
      return false;
    case cache::State::kUnknown:
      break;
  }
  Snapshot bytes(claim.fd());
  return sif::read(bytes).has_value();
}

Outcome<imagebuild::Fetched> opened(const std::string& path, bool cached) {
  imagebuild::Fetched out;
  out.fd.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!out.fd.valid()) {
    return path_problem("opening '" + path + "'", errno, "check the path");
  }
  out.path = path;
  out.cached = cached;
  return out;
}

Outcome<imagebuild::Fetched> convert_to(const std::string& path, imagebuild::BuildOptions options) {
  message::info("Converting OCI blobs to SIF format");
  options.output = path;
  POSTERN_TRY(imagebuild::convert(options));
  return opened(path, false);
}

// `identity`: what decides the result, beside the platform.
Outcome<imagebuild::Fetched> converted(const std::string& identity,
                                       imagebuild::BuildOptions options,
                                       const std::string& uncached) {
  POSTERN_TRY_ASSIGN(cache::Cache* const cache, options.remote->cache());
  if (!cache->enabled()) {
    return convert_to(uncached, std::move(options));
  }
  const std::string key = net::sha256_hex(identity + platform_of(options));
  POSTERN_TRY_ASSIGN(cache::Claim claim, cache->claim(cache::Type::kOciTmp, key));
  if (claim.ready() && !is_good(claim)) {
    message::warning("the cache's entry " + claim.path() +
                     " is damaged: converting the image anew");
    POSTERN_TRY(claim.replace());
  }
  if (claim.ready()) {
    message::info("Using cached SIF image");
    return opened(claim.path(), true);
  }
  options.elsewhere = cache::kElsewhere;
  POSTERN_TRY_ASSIGN(imagebuild::Fetched out, convert_to(claim.path(), std::move(options)));
  POSTERN_TRY(claim.commit_in_place());
  return out;
}

Outcome<imagebuild::Fetched> from_registry(const imagebuild::SourceSpec& spec,
                                           imagebuild::BuildOptions options,
                                           const std::string& uncached) {
  POSTERN_TRY_ASSIGN(const net::Reference reference, net::parse_reference(spec.path));
  POSTERN_TRY_ASSIGN(net::Registry registry,
                     net::Registry::open(options.remote->session(), reference));
  // Asked for without a download: registries count those.
  POSTERN_TRY_ASSIGN(options.pin, registry.resolve(reference.target()));
  POSTERN_TRY(options.remote->check_signature(registry, options.pin));
  return converted(options.pin.substr(7), options, uncached);
}

// Archives and layouts on this machine: the image's configuration names the contents of its layers.
Outcome<imagebuild::Fetched> from_archive(const imagebuild::SourceSpec& spec,
                                          imagebuild::BuildOptions options,
                                          const std::string& uncached) {
  std::string identity;
  {
    POSTERN_TRY_ASSIGN(const imagebuild::OpenedSource source,
                       imagebuild::open_source(spec, {.architecture = options.architecture,
                                                      .temporary = options.temporary,
                                                      .variant = options.variant}));
    identity = net::sha256_hex(source.config.raw);
  }
  return converted(identity, options, uncached);
}

}  // namespace

Outcome<imagebuild::SourceSpec> spec_of(const std::string& uri) {
  const std::string transport(net::transport_of(uri));
  if (transport.empty()) {
    return Problem{.what = "No transport type URI supplied",
                   .cure =
                       "name the image as docker://NAME, oras://NAME, library://NAME or "
                       "https://ADDRESS"};
  }
  if (net::after_transport(uri).empty()) {
    return Problem{.what = "Bad URI " + uri, .cure = "name an image after '" + transport + ":'"};
  }
  imagebuild::SourceSpec spec;
  const auto exists = [](const std::string& path) { return ::access(path.c_str(), F_OK) == 0; };
  POSTERN_TRY_ASSIGN(const bool known, imagebuild::split_transport(uri, exists, spec));
  if (!known || spec.kind == SourceKind::kDirectory) {
    return Problem{.what = transport == "docker" ? "docker references begin with docker://"
                                                 : "Unsupported transport type: " + transport,
                   .cure =
                       "docker://, oras://, library://, http://, https://, oci:, oci-archive: "
                       "and docker-archive: are known"};
  }
  return spec;
}

Outcome<imagebuild::Fetched> provide_image(const std::string& uri,
                                           imagebuild::BuildOptions options,
                                           const std::string& uncached) {
  POSTERN_TRY_ASSIGN(const imagebuild::SourceSpec spec, spec_of(uri));
  options.source = uri;
  const bool signable = spec.kind == SourceKind::kDocker || spec.kind == SourceKind::kOras;
  if (!options.remote->options().verify_key.empty() && !signable) {
    return Problem{.what = "'" + uri + "' carries no signature that --verify-key could check",
                   .cure = "leave it out; SIF images are checked by postern verify"};
  }
  switch (spec.kind) {
    case SourceKind::kDocker:
      return from_registry(spec, std::move(options), uncached);
    case SourceKind::kDockerArchive:
    case SourceKind::kOciArchive:
    case SourceKind::kOciLayout:
      return from_archive(spec, std::move(options), uncached);
    case SourceKind::kOras:
    case SourceKind::kLibrary:
    case SourceKind::kHttp:
      break;
    case SourceKind::kDirectory:
    case SourceKind::kTar:
    case SourceKind::kSquashfs:
    case SourceKind::kSif:
    case SourceKind::kDefinition:
      return Problem{.what = "'" + uri + "' is on this machine already"};
  }
  return imagebuild::fetch_image(*options.remote, spec,
                                 {.architecture = options.architecture,
                                  .temporary = options.temporary,
                                  .variant = options.variant,
                                  .remote = options.remote.get()});
}

}  // namespace postern::transfer
