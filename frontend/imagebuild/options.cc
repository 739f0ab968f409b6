#include "frontend/imagebuild/options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <string_view>
#include <thread>
#include <utility>

#include <unistd.h>

#include "frontend/message/message.h"
#include "policy/config/site.h"
#include "protocol/exit_codes.h"

namespace postern::imagebuild {
namespace {

using option::Kind;
using option::Option;

constexpr option::CommandSet kBuild = 1;
constexpr unsigned kMaxThreads = 64;

// clang-format off
constexpr std::array kOptions = std::to_array<Option>({
    {"arch", 0, "BUILD_ARCH", Kind::kText, kBuild, "ARCH", "choose this architecture of a multi-architecture image"},
    {"arch-variant", 0, "BUILD_ARCH_VARIANT", Kind::kText, kBuild, "VARIANT", "of the architecture: v7"},
    {"authfile", 0, "AUTH_FILE", Kind::kText, kBuild, "FILE", "credentials for registries, in Docker's format"},
    {"bind", 'B', "", Kind::kArray, kBuild, "SPEC", "bind a path during %post and %test"},
    {"build-arg", 0, "", Kind::kArray, kBuild, "NAME=VALUE", "value of {{ NAME }} in the definition file"},
    {"build-arg-file", 0, "", Kind::kText, kBuild, "FILE", "file of NAME=VALUE lines"},
    {"compression", 0, "COMPRESSION", Kind::kText, kBuild, "NAME", "zstd (default), gzip, xz, lz4, lzo or none"},
    {"disable-cache", 0, "DISABLE_CACHE", Kind::kFlag, kBuild, "", "neither use nor fill the cache"},
    {"docker-login", 0, "", Kind::kFlag, kBuild, "", "ask for a user name and a password for registries"},
    {"docker-password", 0, "DOCKER_PASSWORD", Kind::kText, kBuild, "PASSWORD", ""},
    {"docker-username", 0, "DOCKER_USERNAME", Kind::kText, kBuild, "NAME", ""},
    {"encrypt", 'e', "", Kind::kFlag, kBuild, "", "encrypt the image"},
    {"fakeroot", 'f', "FAKEROOT", Kind::kFlag, kBuild, "", "", {}, false, "sections always run as root of a user namespace"},
    {"fix-perms", 0, "FIXPERMS", Kind::kFlag, kBuild, "", "give the owner read and write access to everything"},
    {"force", 'F', "FORCE", Kind::kFlag, kBuild, "", "replace a present image"},
    {"ignore-fakeroot-command", 0, "IGNORE_FAKEROOT_COMMAND", Kind::kFlag, kBuild, "", "", {}, false, "fakeroot(1) is not used"},
    {"ignore-proot", 0, "IGNORE_PROOT", Kind::kFlag, kBuild, "", "", {}, false, "proot(1) is not used"},
    {"ignore-subuid", 0, "IGNORE_SUBUID", Kind::kFlag, kBuild, "", "do not use the ids of /etc/subuid"},
    {"ignore-userns", 0, "IGNORE_USERNS", Kind::kFlag, kBuild, "", "", "sections always run in a user namespace"},
    {"keep-privileged", 0, "KEEP_PRIVILEGED", Kind::kFlag, kBuild, "", "with --sandbox: keep set-user-ID programs, device nodes and trusted attributes"},
    {"library", 0, "LIBRARY", Kind::kText, kBuild, "URL", "the library that library:// means"},
    {"mksquashfs-args", 0, "MKSQUASHFS_ARGS", Kind::kText, kBuild, "ARGS", "options of mksquashfs: -comp, -b, -Xcompression-level, -processors, -all-root, -no-compression"},
    {"mount", 0, "MOUNT", Kind::kArray, kBuild, "SPEC", "mount during %post and %test"},
    {"no-cleanup", 0, "NO_CLEANUP", Kind::kFlag, kBuild, "", "keep the half-made sandbox of a failed build"},
    {"no-https", 0, "NOHTTPS,NO_HTTPS", Kind::kFlag, kBuild, "", "registries may speak plain HTTP, or show any certificate"},
    {"nohttps", 0, "", Kind::kFlag, kBuild, "", ""},
    {"notest", 'T', "NOTEST", Kind::kFlag, kBuild, "", "do not run %test"},
    {"nv", 0, "", Kind::kFlag, kBuild, "", "NVIDIA GPUs during %post and %test"},
    {"passphrase", 0, "", Kind::kFlag, kBuild, "", "encrypt with a passphrase"},
    {"pem-path", 0, "", Kind::kText, kBuild, "FILE", "encrypt for an RSA public key"},
    {"reproducible", 0, "REPRODUCIBLE", Kind::kFlag, kBuild, "", "", {}, false, "the same source gives the same bytes anyway"},
    {"rocm", 0, "", Kind::kFlag, kBuild, "", "AMD GPUs during %post and %test"},
    {"sandbox", 's', "SANDBOX", Kind::kFlag, kBuild, "", "make a directory instead of an image file"},
    {"section", 0, "SECTION", Kind::kList, kBuild, "NAMES", "sections to run: all, none, or of pre, setup, post, files, environment, test, labels, runscript, startscript, help"},
    {"tmpdir", 0, "TMPDIR", Kind::kText, kBuild, "DIR", "directory for temporary files"},
    {"verify-key", 0, "VERIFY_KEY", Kind::kText, kBuild, "FILE", "docker://, oras://: only what this public key has signed (cosign)"},
    {"update", 'u', "UPDATE", Kind::kFlag, kBuild, "", "with --sandbox: run the sections on the present directory"},
    {"userns", 0, "USERNS", Kind::kFlag, kBuild, "", "", {}, false, "sections always run in a user namespace"},
    {"warn-unused-build-args", 0, "", Kind::kFlag, kBuild, "", "warn of build arguments that nothing uses, instead of failing"},
    {"writable-tmpfs", 0, "WRITABLE_TMPFS", Kind::kFlag, kBuild, "", "let %test write: changes are lost at its end"},
    // Apptainer's, not ours:
    {"buildkit-host", 0, "", Kind::kText, kBuild, "", "", "build the Dockerfile elsewhere and give its image: docker-archive:FILE"},
    {"compat32", 0, "", Kind::kFlag, kBuild, "", "", "leave it out"},
    {"data", 0, "", Kind::kFlag, kBuild, "", "", "use 'postern sif add --datatype 4 --parttype 3'"},
    {"docker-host", 0, "", Kind::kText, kBuild, "", "", "save the image first: docker save IMAGE > FILE, then docker-archive:FILE"},
    {"json", 0, "JSON", Kind::kFlag, kBuild, "", "", "write the definition file in its text form"},
    {"nvccli", 0, "", Kind::kFlag, kBuild, "", "", "use --nv"},
    {"remote", 0, "", Kind::kFlag, kBuild, "", "", "build here"},
});
// clang-format on

Problem usage(std::string what) {
  return Problem{.what = std::move(what), .exit_code = kExitUsage};
}

Outcome<unsigned> number(std::string_view option,
                         std::string_view text,
                         unsigned least,
                         unsigned most) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most) {
    return usage(std::string(option) + " takes a number from " + std::to_string(least) + " to " +
                 std::to_string(most) + ", not '" + std::string(text) + "'");
  }
  return value;
}

Outcome<> set_compression(SquashOptions& out, std::string_view option, std::string_view name) {
  const std::optional<Compression> compression = compression_of(name);
  if (!compression) {
    return usage(std::string(option) + " takes zstd, gzip, xz, lz4, lzo or none, not '" +
                 std::string(name) + "'");
  }
  out.compression = *compression;
  return {};
}

// "131072", "128K", "1M".
Outcome<std::uint32_t> block_size(std::string_view text) {
  std::string_view digits = text;
  unsigned unit = 1;
  if (!digits.empty() && (digits.back() == 'K' || digits.back() == 'k')) {
    unit = 1024;
  } else if (!digits.empty() && (digits.back() == 'M' || digits.back() == 'm')) {
    unit = 1024 * 1024;
  }
  digits.remove_suffix(unit == 1 ? 0 : 1);
  unsigned value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const std::uint64_t bytes = std::uint64_t{value} * unit;
  if (error != std::errc() || end != digits.data() + digits.size() || bytes < 4096 ||
      bytes > 1048576 || (bytes & (bytes - 1)) != 0) {
    return usage("-b takes a power of two from 4K to 1M, not '" + std::string(text) + "'");
  }
  return static_cast<std::uint32_t>(bytes);
}

unsigned most_level(Compression compression) {
  return compression == Compression::kZstd ? 22 : 9;
}

// The options of mksquashfs that mean something here; every other is an error rather than ignored.
Outcome<> mksquashfs_arguments(SquashOptions& out, std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const std::size_t blank = text.find_first_of(" \t");
    if (blank != 0) {
      words.emplace_back(text.substr(0, blank));
    }
    text.remove_prefix(blank == std::string_view::npos ? text.size() : blank + 1);
  }
  std::optional<std::string> level;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    const auto value = [&]() -> Outcome<std::string> {
      if (i + 1 == words.size()) {
        return usage("--mksquashfs-args: " + word + " needs a value");
      }
      return words[++i];
    };
    if (word == "-comp") {
      POSTERN_TRY_ASSIGN(const std::string name, value());
      POSTERN_TRY(set_compression(out, "-comp", name));
    } else if (word == "-b") {
      POSTERN_TRY_ASSIGN(const std::string size, value());
      POSTERN_TRY_ASSIGN(out.block_bytes, block_size(size));
    } else if (word == "-Xcompression-level") {
      POSTERN_TRY_ASSIGN(level, value());
    } else if (word == "-processors") {
      POSTERN_TRY_ASSIGN(const std::string count, value());
      POSTERN_TRY_ASSIGN(out.threads, number("-processors", count, 1, kMaxThreads));
    } else if (word == "-all-root" || word == "-root-owned") {
      out.all_root = true;
    } else if (word == "-no-compression") {
      out.compression = Compression::kNone;
    } else if (word != "-noappend" && word != "-no-progress" &&
               word != "-quiet") {  // always so here
      return usage("--mksquashfs-args: '" + word +
                   "' means nothing here: -comp, -b, -Xcompression-level, "
                   "-processors, -all-root and -no-compression do");
    }
  }
  if (level) {
    POSTERN_TRY_ASSIGN(out.level,
                       number("-Xcompression-level", *level, 1, most_level(out.compression)));
  }
  return {};
}

Outcome<std::optional<std::int64_t>> source_date_epoch() {
  const char* text = std::getenv("SOURCE_DATE_EPOCH");  // NOLINT(concurrency-mt-unsafe): one thread
  if (text == nullptr || *text == '\0') {
    return std::optional<std::int64_t>();
  }
  const std::string_view digits = text;
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size() || value < 0) {
    return Problem{.what = "SOURCE_DATE_EPOCH is '" + std::string(digits) + "'",
                   .cure = "set it to seconds since 1970, or unset it"};
  }
  return std::optional<std::int64_t>(value);
}

std::vector<std::string> container_options(const option::Arguments& arguments) {
  std::vector<std::string> out;
  for (const char* name : {"bind", "mount"}) {
    for (const std::string& value : arguments.values(name)) {
      out.push_back("--" + std::string(name));
      out.push_back(value);
    }
  }
  for (const char* name : {"nv", "rocm"}) {
    if (arguments.given(name)) {
      out.push_back("--" + std::string(name));
    }
  }
  return out;
}

std::vector<std::string> key_options(const option::Arguments& arguments) {
  std::vector<std::string> out;
  if (arguments.given("passphrase")) {
    out.emplace_back("--passphrase");
  }
  if (arguments.given("pem-path")) {
    out.push_back("--pem-path=" + std::string(arguments.text("pem-path")));
  }
  return out;
}

Outcome<std::shared_ptr<Remote>> remote_of(const option::Arguments& arguments) {
  RemoteOptions out{.no_https = arguments.given("no-https") || arguments.given("nohttps"),
                    .disable_cache = arguments.given("disable-cache"),
                    .library = std::string(arguments.text("library")),
                    .verify_key = std::string(arguments.text("verify-key"))};
  out.credentials = {.user = std::string(arguments.text("docker-username")),
                     .password = std::string(arguments.text("docker-password")),
                     .file = std::string(arguments.text("authfile"))};
  POSTERN_TRY(complete_credentials(out.credentials, arguments.given("docker-login")));
  return std::make_shared<Remote>(std::move(out));
}

}  // namespace

std::string temporary_directory(const option::Arguments& arguments) {
  return arguments.given("tmpdir") ? std::string(arguments.text("tmpdir")) : temporary_directory();
}

std::string temporary_directory() {
  if (std::string place = net::variable("TMPDIR"); !place.empty()) {
    return place;
  }
  const char* text = std::getenv("TMPDIR");  // NOLINT(concurrency-mt-unsafe): one thread
  // Not /tmp: it is often memory, and what is put here may be as large as an image.
  return text != nullptr && *text != '\0' ? text : "/var/tmp";
}

std::span<const option::Option> option_table() {
  return kOptions;
}

namespace {

// What the site's configuration leaves to a build, of the processors that there are.
Outcome<unsigned> processors_of_site() {
  const char* named = std::getenv("POSTERN_CONFIG_FILE");  // NOLINT(concurrency-mt-unsafe)
  POSTERN_TRY_ASSIGN(
      const config::SiteConfig site,
      config::load_site_config(named != nullptr ? named : POSTERN_CONFDIR "/postern.toml"));
  const unsigned present = std::max(std::thread::hardware_concurrency(), 1U);
  const std::uint64_t wanted = site.build_mksquashfs_processors;
  return std::min(wanted == 0 || wanted > present ? present : static_cast<unsigned>(wanted),
                  kMaxThreads);
}

}  // namespace

Outcome<BuildOptions> parse_options(std::span<const std::string> words,
                                    const char* const* environment) {
  POSTERN_TRY_ASSIGN(const option::Arguments arguments,
                     option::parse(kOptions, kBuild, words, environment, true));
  if (arguments.positional().size() != 2) {
    return usage("build needs an output and a source, " +
                 std::to_string(arguments.positional().size()) +
                 " arguments were given (options come first)");
  }
  BuildOptions out;
  out.output = arguments.positional()[0];
  out.source = arguments.positional()[1];
  POSTERN_TRY_ASSIGN(out.squash.threads, processors_of_site());
  if (arguments.given("mksquashfs-args")) {
    POSTERN_TRY(mksquashfs_arguments(out.squash, arguments.text("mksquashfs-args")));
  }
  if (arguments.given("compression")) {
    POSTERN_TRY(set_compression(out.squash, "--compression", arguments.text("compression")));
  }
  POSTERN_TRY_ASSIGN(out.epoch, source_date_epoch());
  out.architecture = arguments.text("arch");
  sif::Architecture known{};
  if (!out.architecture.empty() && !sif::parse_name(out.architecture, known)) {
    return usage("--arch: '" + out.architecture +
                 "' is not an architecture (amd64, arm64, ppc64le, riscv64, …)");
  }
  out.temporary = temporary_directory(arguments);
  out.sections = arguments.values("section");
  out.build_arguments = arguments.values("build-arg");
  out.build_argument_file = arguments.text("build-arg-file");
  out.variant = arguments.text("arch-variant");
  POSTERN_TRY_ASSIGN(out.remote, remote_of(arguments));
  out.key = key_options(arguments);
  out.encrypt = arguments.given("encrypt") || !out.key.empty();
  out.container = container_options(arguments);
  out.sandbox = arguments.given("sandbox");
  out.force = arguments.given("force");
  out.update = arguments.given("update");
  out.fix_permissions = arguments.given("fix-perms");
  out.no_test = arguments.given("notest");
  out.ignore_subordinate_ids = arguments.given("ignore-subuid");
  out.keep_privileged = arguments.given("keep-privileged");
  out.keep_on_failure = arguments.given("no-cleanup");
  out.writable_tmpfs = arguments.given("writable-tmpfs");
  out.notes = arguments.notes();
  out.only_warn_of_unused_arguments = arguments.given("warn-unused-build-args");
  if (out.update && !out.sandbox) {
    return usage("--update works on directories: add --sandbox");
  }
  if (out.encrypt && out.sandbox) {
    return usage("a directory cannot be encrypted: leave out --sandbox");
  }
  return out;
}

std::string usage_text() {
  return "Usage:\n  postern build [options] OUTPUT SOURCE\n\n"
         "Makes a SIF image, or with --sandbox a directory, from SOURCE:\n"
         "  DIRECTORY                      a root file system, or a sandbox\n"
         "  FILE                           tar (plain, gzip, xz, zstd, …), squashfs, SIF or "
         "definition file\n"
         "  docker-archive:FILE[:NAME:TAG] what `docker save` writes\n"
         "  oci-archive:FILE[:TAG]         an OCI image layout in a tar\n"
         "  oci:DIRECTORY[:TAG]            an OCI image layout\n"
         "  docker://NAME, oras://NAME     an image, or a SIF, in a registry\n"
         "  library://NAME                 a SIF in a library\n"
         "  https://ADDRESS                an image file of a web server\n\n"
         "Options:\n" +
         option::describe(kOptions, kBuild);
}

}  // namespace postern::imagebuild
