// push, tag, search, delete: what is kept elsewhere.
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <vector>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/net/digest.h"
#include "frontend/net/reference.h"
#include "frontend/transfer/command.h"
#include "frontend/transfer/options.h"
#include "frontend/transfer/output.h"
#include "frontend/transfer/verify.h"
#include "policy/json/strict.h"
#include "policy/sif/reader.h"
#include "policy/text/printable.h"

namespace postern::transfer {
namespace {

constexpr const char* kOciManifest = "application/vnd.oci.image.manifest.v1+json";
constexpr std::string_view kEmptyConfig = "{}";
constexpr std::uint64_t kMaxMetadata = std::uint64_t{1} << 20;

struct LocalImage {
  UniqueFd fd;
  std::uint64_t bytes = 0;
  std::string architecture;
  std::string created;  // label of the image, RFC 3339; empty: none
};

// The label org.opencontainers.image.created in a SIF's inspect-metadata.json.
std::string created_label(Snapshot& bytes, const sif::Image& image) {
  using Kind = json::Value::Kind;
  const sif::Descriptor* object = image.find(sif::DataType::kGenericJson, "inspect-metadata.json");
  const auto text = object != nullptr ? sif::read_object(bytes, image, *object, kMaxMetadata)
                                      : Outcome<std::string>(std::string());
  const auto document = text ? json::parse(*text, {.bytes = kMaxMetadata, .depth = 16})
                             : Outcome<json::Value>(Problem{});
  const json::Value* at = document ? &*document : nullptr;
  for (const char* name : {"data", "attributes", "labels"}) {
    at = at != nullptr ? at->find(name, Kind::kObject) : nullptr;
  }
  const json::Value* label =
      at != nullptr ? at->find("org.opencontainers.image.created", Kind::kString) : nullptr;
  return label != nullptr ? label->text : "";
}

Outcome<LocalImage> open_local(const std::string& path) {
  LocalImage out;
  out.fd.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  struct stat status{};
  if (!out.fd.valid() || ::fstat(out.fd.get(), &status) != 0) {
    return Problem{.what =
                       "unable to open: " + path + ": " + system_problem("", errno).what.substr(2)};
  }
  Snapshot bytes(out.fd.get());
  auto image = S_ISREG(status.st_mode) ? sif::read(bytes)
                                       : Outcome<sif::Image>(Problem{.what = "it is not a file"});
  if (!image) {
    return Problem{.what = "unable to open: " + path + ": invalid SIF: " + image.error().what,
                   .cure = "only SIF images are pushed: make one with postern build"};
  }
  out.bytes = static_cast<std::uint64_t>(status.st_size);
  if (const auto primary = image->primary_partition(); primary) {
    out.architecture = sif::name_of((*primary)->partition()->architecture);
  }
  out.created = created_label(bytes, *image);
  return out;
}

std::string now_text() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  std::array<char, 32> text{};
  if (::gmtime_r(&now, &utc) == nullptr ||
      std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc) == 0) {
    return "";
  }
  return text.data();
}

std::string manifest_of(const option::Arguments& arguments,
                        const LocalImage& image,
                        const std::string& digest,
                        const std::string& file_name) {
  std::string annotations;
  const auto annotate = [&](const std::string& name, const std::string& value) {
    annotations +=
        (annotations.empty() ? "" : ",") + json::quoted(name) + ":" + json::quoted(value);
  };
  for (const std::string& text : arguments.values("annotation")) {
    const std::size_t equals = text.find('=');
    if (equals == std::string::npos) {
      message::warning("Value missing for \"" + text + "\", not setting");
      continue;
    }
    annotate(text.substr(0, equals), text.substr(equals + 1));
  }
  annotate("org.opencontainers.image.created", image.created.empty() ? now_text() : image.created);
  if (arguments.given("description")) {
    annotate("org.opencontainers.image.description", std::string(arguments.text("description")));
  }
  return std::string("{\"schemaVersion\":2,\"mediaType\":\"") + kOciManifest +
         "\",\"config\":{\"mediaType\":\"application/vnd.sylabs.sif.config.v1+json\",\"size\":2,"
         "\"digest\":\"sha256:" +
         net::sha256_hex(kEmptyConfig) +
         "\",\"data\":\"e30=\"},\"layers\":"
         "[{\"mediaType\":\"application/vnd.sylabs.sif.layer.v1.sif\",\"size\":" +
         std::to_string(image.bytes) + ",\"digest\":\"" + digest +
         "\",\"annotations\":{\"org.opencontainers.image.title\":" + json::quoted(file_name) +
         "}}],\"annotations\":{" + annotations + "}}";
}

Outcome<> push_oras(const option::Arguments& arguments,
                    imagebuild::Remote& remote,
                    const std::string& path,
                    const std::string& name) {
  POSTERN_TRY_ASSIGN(net::Reference reference, net::parse_reference(name));
  POSTERN_TRY_ASSIGN(const LocalImage image, open_local(path));
  POSTERN_TRY_ASSIGN(const std::string hex, net::sha256_of_file(image.fd.get(), image.bytes));
  const std::string digest = "sha256:" + hex;
  POSTERN_TRY_ASSIGN(net::Registry registry,
                     net::Registry::open(remote.session(), reference, "pull,push"));
  const std::string config = "sha256:" + net::sha256_hex(kEmptyConfig);
  POSTERN_TRY_ASSIGN(const bool has_config, registry.has_blob(config));
  if (!has_config) {
    POSTERN_TRY(registry.upload(config, std::string(kEmptyConfig)));
  }
  POSTERN_TRY_ASSIGN(const bool has_image, registry.has_blob(digest));
  if (!has_image) {
    POSTERN_TRY(registry.upload(digest, image.fd.get(), image.bytes));
  }
  const std::string file_name = path.substr(path.rfind('/') + 1);
  POSTERN_TRY_ASSIGN(const std::string pushed,
                     registry.put_manifest(reference.target(), kOciManifest,
                                           manifest_of(arguments, image, digest, file_name)));
  message::info("Digest: " + pushed);
  message::info("Upload complete");
  return Ok{};
}

Outcome<> push_library(const option::Arguments& arguments,
                       imagebuild::Remote& remote,
                       const std::string& path,
                       const std::string& name) {
  POSTERN_TRY_ASSIGN(const net::LibraryReference reference, net::parse_library_reference(name));
  POSTERN_TRY_ASSIGN(const LocalImage image, open_local(path));
  if (arguments.given("allow-unsigned")) {
    message::warning("Skipping container verification");
  } else if (const std::string why = why_unverified(path); !why.empty()) {
    std::puts("TIP: You can push unsigned images with 'postern push -U <image>'.");
    std::puts("TIP: Learn how to sign your own containers by using 'postern help sign'");
    return Problem{.what = "Unable to upload container: unable to verify signature",
                   .cure = why + "; sign it (postern sign), or add --allow-unsigned"};
  }
  if (image.architecture.empty() || image.architecture == "unknown") {
    return Problem{.what = "unknown architecture in SIF file"};
  }
  POSTERN_TRY_ASSIGN(net::Library library, remote.library(reference));
  POSTERN_TRY_ASSIGN(const std::string hex, net::sha256_of_file(image.fd.get(), image.bytes));
  POSTERN_TRY_ASSIGN(const std::string md5, net::md5_of_file(image.fd.get(), image.bytes));
  POSTERN_TRY_ASSIGN(const net::Library::Uploaded done,
                     library.upload({.path = reference.path,
                                     .tags = reference.tags,
                                     .description = std::string(arguments.text("description")),
                                     .architecture = image.architecture,
                                     .sha256 = hex,
                                     .md5 = md5,
                                     .file = image.fd.get(),
                                     .bytes = image.bytes}));
  if (done.quota) {
    const std::string usage = size_text(done.quota_usage);
    if (done.quota_total == 0) {
      std::printf("\nLibrary storage: using %s out of unlimited quota\n", usage.c_str());
    } else {
      std::printf(
          "\nLibrary storage: using %s out of %s quota (%.1f%% used)\n", usage.c_str(),
          size_text(done.quota_total).c_str(),
          100.0 * static_cast<double>(done.quota_usage) / static_cast<double>(done.quota_total));
    }
  }
  if (!done.container_url.empty() && !arguments.given("library")) {
    std::printf("Container URL: %s/%s\n", library.base().c_str(), done.container_url.c_str());
  }
  return Ok{};
}

Outcome<> push(const option::Arguments& arguments) {
  const std::string& path = arguments.positional()[0];
  const std::string& uri = arguments.positional()[1];
  const std::string transport(net::transport_of(uri));
  const std::string name(net::after_transport(uri));
  POSTERN_TRY_ASSIGN(const std::shared_ptr<imagebuild::Remote> remote, remote_of(arguments, kPush));
  if (transport.empty()) {
    return Problem{.what = "No transport type URI supplied",
                   .cure = "push to oras://HOST/NAME:TAG or library://ENTITY/COLLECTION/NAME:TAG"};
  }
  const bool oras = transport == "oras";
  if (!oras && transport != "library") {
    return Problem{.what = "Unsupported transport type: " + transport,
                   .cure = "images are pushed to oras:// and library://"};
  }
  auto done = oras ? push_oras(arguments, *remote, path, name)
                   : push_library(arguments, *remote, path, name);
  if (!done && !done.error().what.starts_with("Unable to ")) {
    Problem problem = std::move(done).error();
    problem.what =
        (oras ? "Unable to push image to oci registry: " : "Unable to push image to library: ") +
        problem.what;
    return problem;
  }
  return done;
}

// ---- tag

Outcome<> tag(const option::Arguments& arguments) {
  const std::string& uri = arguments.positional()[0];
  const std::string& name = arguments.positional()[1];
  const std::string transport(net::transport_of(uri));
  if (transport != "oras" && transport != "docker") {
    return Problem{.what = transport.empty() ? "No transport type URI supplied"
                                             : "Unsupported transport type: " + transport,
                   .cure = "name an image in a registry: oras://HOST/NAME:TAG"};
  }
  POSTERN_TRY_ASSIGN(net::Reference reference, net::parse_reference(net::after_transport(uri)));
  net::Reference fresh = reference;
  POSTERN_TRY_ASSIGN(
      fresh, net::parse_reference(reference.host + "/" + reference.repository + ":" + name));
  POSTERN_TRY_ASSIGN(const std::shared_ptr<imagebuild::Remote> remote, remote_of(arguments, kTag));
  POSTERN_TRY_ASSIGN(net::Registry registry,
                     net::Registry::open(remote->session(), reference, "pull,push"));
  POSTERN_TRY_ASSIGN(const net::Manifest manifest, registry.manifest(reference.target()));
  POSTERN_TRY(registry.put_manifest(fresh.tag, manifest.media_type, manifest.bytes));
  message::info("Image //" + reference.name() + " tagged \"" + name + "\".");
  return Ok{};
}

// ---- search

void print_found(const std::vector<net::Library::Found>& found,
                 const std::string& query,
                 const std::string& architecture) {
  if (found.empty()) {
    std::printf("No container images found for %s matching \"%s\".\n\n", architecture.c_str(),
                query.c_str());
    return;
  }
  std::printf("Found %zu container images for %s matching \"%s\":\n\n", found.size(),
              architecture.c_str(), query.c_str());
  for (const net::Library::Found& one : found) {
    std::string out = "\t" + text::printable(one.name) + "\n";
    std::string lower = one.description;
    for (char& c : lower) {
      c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    }
    if (!lower.empty() && lower != "no description") {
      out += "\t\t" + text::printable(one.description) + "\n";
    }
    std::string signers;
    for (const std::string& fingerprint : one.fingerprints) {
      signers += (signers.empty() ? "" : ",") + fingerprint;
    }
    if (!signers.empty()) {
      out += "\t\tSigned by: " + text::printable(signers) + "\n";
    }
    std::printf("%s\n", out.c_str());
  }
}

Outcome<std::vector<net::Library::Found>> search_registry(imagebuild::Remote& remote,
                                                          const std::string& place) {
  std::vector<std::string> repositories;
  const std::size_t slash = place.find('/');
  const std::string host = place.substr(0, slash);
  if (slash != std::string::npos && slash + 1 < place.size()) {
    repositories.push_back(place.substr(slash + 1));
  } else {
    POSTERN_TRY_ASSIGN(repositories, net::catalog(remote.session(), host));
  }
  std::vector<net::Library::Found> out;
  for (const std::string& repository : repositories) {
    POSTERN_TRY_ASSIGN(net::Reference reference, net::parse_reference(host + "/" + repository));
    POSTERN_TRY_ASSIGN(net::Registry registry, net::Registry::open(remote.session(), reference));
    POSTERN_TRY_ASSIGN(const std::vector<std::string> tags, registry.tags());
    for (const std::string& tag : tags) {
      out.push_back({.name = "oras://" + host + "/" + repository + ":" + tag});
    }
  }
  return out;
}

Outcome<> search(const option::Arguments& arguments) {
  constexpr std::size_t kLeastText = 3;
  const std::string& text = arguments.positional()[0];
  const std::string transport(net::transport_of(text));
  POSTERN_TRY_ASSIGN(const std::shared_ptr<imagebuild::Remote> remote,
                     remote_of(arguments, kSearch));
  const std::string architecture = arguments.given("arch")
                                       ? std::string(arguments.text("arch"))
                                       : std::string(sif::name_of(sif::host_architecture()));
  if (transport == "oras" || transport == "docker") {
    POSTERN_TRY_ASSIGN(const auto found,
                       search_registry(*remote, std::string(net::after_transport(text))));
    print_found(found, text, architecture);
    return Ok{};
  }
  const std::string wanted(net::after_transport(text));
  if (wanted.size() < kLeastText) {
    return Problem{.what = "Couldn't search library: bad query '" + wanted +
                           "'. You must search for at least 3 characters"};
  }
  POSTERN_TRY_ASSIGN(net::Library library, remote->library({}));
  POSTERN_TRY_ASSIGN(const auto found,
                     library.search(wanted, architecture, arguments.given("signed")));
  print_found(found, wanted, architecture);
  return Ok{};
}

// ---- delete

Outcome<bool> confirmed(const std::string& name, const std::string& architecture, bool force) {
  if (force) {
    return true;
  }
  std::printf("Are you sure you want to delete %s (%s) [y/N] ", name.c_str(), architecture.c_str());
  std::fflush(stdout);
  std::string answer;
  for (int c = std::getchar(); c != '\n' && c != EOF; c = std::getchar()) {
    answer += static_cast<char>(c);
  }
  return answer == "y" || answer == "Y" || answer == "yes";
}

Outcome<unsigned> seconds_of(const option::Arguments& arguments) {
  constexpr unsigned kUsual = 15;
  const std::string_view text = arguments.text("timeout");
  unsigned out = kUsual;
  if (!text.empty()) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    if (error != std::errc() || end != text.data() + text.size()) {
      return Problem{.what = "--timeout takes seconds, not '" + std::string(text) + "'"};
    }
  }
  return out;
}

Outcome<> remove(const option::Arguments& arguments) {
  const std::string& uri = arguments.positional()[0];
  const std::string transport(net::transport_of(uri));
  const std::string name(net::after_transport(uri));
  const bool force = arguments.given("force");
  const std::string architecture = arguments.given("arch")
                                       ? std::string(arguments.text("arch"))
                                       : std::string(sif::name_of(sif::host_architecture()));
  POSTERN_TRY_ASSIGN(const unsigned seconds, seconds_of(arguments));
  POSTERN_TRY_ASSIGN(const std::shared_ptr<imagebuild::Remote> remote,
                     remote_of(arguments, kDelete));
  std::string shown;
  if (transport == "oras") {
    POSTERN_TRY_ASSIGN(net::Reference reference, net::parse_reference(name));
    shown = reference.name();
    POSTERN_TRY_ASSIGN(const bool yes, confirmed(shown, architecture, force));
    if (!yes) {
      return Ok{};
    }
    POSTERN_TRY_ASSIGN(net::Registry registry,
                       net::Registry::open(remote->session(), reference, "pull,delete"));
    POSTERN_TRY_ASSIGN(const std::string digest, registry.resolve(reference.target()));
    POSTERN_TRY(registry.remove(digest));
  } else if (transport == "library" || transport.empty()) {
    POSTERN_TRY_ASSIGN(const net::LibraryReference reference, net::parse_library_reference(name));
    shown = reference.path + ":" + reference.tag;
    POSTERN_TRY_ASSIGN(const bool yes, confirmed(shown, architecture, force));
    if (!yes) {
      return Ok{};
    }
    POSTERN_TRY_ASSIGN(net::Library library, remote->library(reference));
    auto done = library.remove(reference.path, reference.tag, architecture, seconds);
    if (!done) {
      Problem problem = std::move(done).error();
      problem.what = "Unable to delete image from library: " + problem.what;
      return problem;
    }
  } else {
    return Problem{.what = "Unsupported transport type: " + transport,
                   .cure = "images of oras:// and library:// are deleted"};
  }
  message::info("Image " + shown + " (" + architecture + ") deleted.");
  return Ok{};
}

}  // namespace

int push_command(std::span<const std::string> words) {
  return run({"push", "[options] IMAGE URI", "Send a SIF image to a registry or a library",
              options(), kPush, 2, 2},
             words, push);
}

int tag_command(std::span<const std::string> words) {
  return run({"tag", "[options] URI TAG", "Give an image in a registry another tag", options(),
              kTag, 2, 2},
             words, tag);
}

int search_command(std::span<const std::string> words) {
  return run({"search", "[options] TEXT", "Look for images in a library or a registry", options(),
              kSearch, 1, 1},
             words, search);
}

int delete_command(std::span<const std::string> words) {
  return run({"delete", "[options] URI", "Delete an image in a library or a registry", options(),
              kDelete, 1, 1},
             words, remove);
}

}  // namespace postern::transfer
