#include "frontend/transfer/options.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>
#include <thread>
#include <utility>

#include "protocol/exit_codes.h"

namespace postern::transfer {
namespace {

using option::Kind;

constexpr option::CommandSet kImages = kPull | kFetch;
constexpr option::CommandSet kAll = kPull | kFetch | kPush | kTag | kSearch | kDelete;
constexpr std::string_view kNoDaemon =
    "save the image first: docker save NAME:TAG > FILE, then docker-archive:FILE";

constexpr std::string_view kNoSignature =
    "a signature is looked at when it is asked for: postern verify, ecl.toml(5)";

// clang-format off
constexpr std::array kOptions = std::to_array<option::Option>({
    {"allow-unauthenticated", 0, "ALLOW_UNAUTHENTICATED", Kind::kFlag, kPull, "", "", {}, false, kNoSignature},
    {"allow-unsigned", 'U', "ALLOW_UNSIGNED", Kind::kFlag, kPull | kPush, "", "send an image without a valid signature; what is fetched needs none"},
    {"annotation", 0, "", Kind::kArray, kPush, "NAME=VALUE", "of the manifest (oras)"},
    {"arch", 0, "PULL_ARCH", Kind::kText, kImages, "ARCH", "of an image for several: amd64, arm64, arm, ppc64le, riscv64, …"},
    {"arch", 'A', "ARCH", Kind::kText, kDelete, "ARCH", "of the image in the library"},
    {"arch", 0, "SEARCH_ARCH", Kind::kText, kSearch, "ARCH", "of the images to look for"},
    {"arch-variant", 0, "PULL_ARCH_VARIANT", Kind::kText, kImages, "VARIANT", "of the architecture: v7"},
    {"authfile", 0, "AUTH_FILE", Kind::kText, kAll, "FILE", "credentials for registries, in Docker's format"},
    {"description", 'D', "", Kind::kText, kPush, "TEXT", "of the image"},
    {"dir", 0, "PULLDIR,PULLFOLDER", Kind::kText, kPull, "DIR", "where the image goes"},
    {"disable-cache", 0, "DISABLE_CACHE", Kind::kFlag, kImages, "", "neither use nor fill the cache"},
    {"docker-login", 0, "", Kind::kFlag, kAll, "", "ask for a user name and a password for registries"},
    {"docker-password", 0, "DOCKER_PASSWORD", Kind::kText, kAll, "PASSWORD", ""},
    {"docker-username", 0, "DOCKER_USERNAME", Kind::kText, kAll, "NAME", ""},
    {"force", 'F', "FORCE", Kind::kFlag, kPull | kDelete, "", "replace a present file; delete without asking"},
    {"library", 0, "LIBRARY", Kind::kText, kAll, "URL", "the library that library:// means"},
    {"name", 0, "PULL_NAME", Kind::kText, kPull, "FILE", ""},
    {"no-cleanup", 0, "NO_CLEANUP", Kind::kFlag, kPull, "", "", {}, false, "temporary files have no names"},
    {"no-https", 0, "NOHTTPS,NO_HTTPS", Kind::kFlag, kAll, "", "servers may speak plain HTTP, or show any certificate"},
    {"nohttps", 0, "", Kind::kFlag, kAll, "", ""},
    {"reproducible", 0, "REPRODUCIBLE", Kind::kFlag, kPull, "", "", {}, false, "the same image gives the same bytes anyway"},
    {"sandbox", 's', "SANDBOX", Kind::kFlag, kPull, "", "make a directory instead of an image file"},
    {"signed", 0, "SEARCH_SIGNED", Kind::kFlag, kSearch, "", "only signed images"},
    {"timeout", 'T', "TIMEOUT", Kind::kText, kDelete, "SECONDS", ""},
    {"verify-key", 0, "VERIFY_KEY", Kind::kText, kImages, "FILE", "docker://, oras://: only what this public key has signed (cosign)"},
    {"tmpdir", 0, "TMPDIR", Kind::kText, kImages, "DIR", "directory for temporary files"},

    {"docker-host", 0, "", Kind::kText, kAll, "", "", kNoDaemon},
});
// clang-format on

// Docker's names of platforms beside Go's: arm32v7, arm64v8.
void split_variant(std::string& architecture, std::string& variant) {
  for (const std::string_view name : {"arm32v5", "arm32v6", "arm32v7", "arm64v8"}) {
    if (architecture == name) {
      variant = variant.empty() ? architecture.substr(5) : variant;
      architecture = name.starts_with("arm32") ? "arm" : "arm64";
    }
  }
  if (architecture == "arm" && variant.size() == 1) {
    variant = "v" + variant;
  }
  if (architecture == "arm64" && variant == "v8") {
    variant.clear();  // the only one; most indexes do not say it
  }
}

}  // namespace

std::span<const option::Option> options() {
  return kOptions;
}

Outcome<std::shared_ptr<imagebuild::Remote>> remote_of(const option::Arguments& arguments,
                                                       option::CommandSet command) {
  imagebuild::RemoteOptions out{
      .no_https = arguments.given("no-https") || arguments.given("nohttps"),
      .library = std::string(arguments.text("library"))};
  out.verify_key = (command & kImages) != 0 ? arguments.text("verify-key") : "";
  out.disable_cache = (command & kImages) != 0 && arguments.given("disable-cache");
  out.credentials = {.user = std::string(arguments.text("docker-username")),
                     .password = std::string(arguments.text("docker-password")),
                     .file = std::string(arguments.text("authfile"))};
  POSTERN_TRY(imagebuild::complete_credentials(out.credentials, arguments.given("docker-login")));
  return std::make_shared<imagebuild::Remote>(std::move(out));
}

Outcome<imagebuild::BuildOptions> build_options_of(const option::Arguments& arguments,
                                                   std::shared_ptr<imagebuild::Remote> remote) {
  imagebuild::BuildOptions out;
  out.remote = std::move(remote);
  out.architecture = arguments.text("arch");
  out.variant = arguments.text("arch-variant");
  split_variant(out.architecture, out.variant);
  sif::Architecture known{};
  if (!out.architecture.empty() && !sif::parse_name(out.architecture, known)) {
    return Problem{.what = "arch: " + out.architecture +
                           " is not valid, supported archs are: [arm arm64 amd64 386 ppc64le s390x "
                           "riscv64 loong64]"};
  }
  out.temporary = imagebuild::temporary_directory(arguments);
  out.squash.threads = std::clamp(std::thread::hardware_concurrency(), 1U, 64U);
  out.force = true;
  return out;
}

}  // namespace postern::transfer
