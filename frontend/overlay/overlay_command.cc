#include "frontend/overlay/overlay_command.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "frontend/message/message.h"
#include "frontend/option/usage.h"
#include "frontend/system/descriptor.h"
#include "frontend/system/safe_directory.h"
#include "frontend/system/scratch_file.h"
#include "frontend/system/spawn.h"
#include "policy/path/fresh_file.h"
#include "policy/sif/writer.h"
#include "policy/snapshot/snapshot.h"
#include "protocol/base/unique_fd.h"
#include "protocol/exit_codes.h"

namespace postern::overlay {
namespace {

using option::Kind;

constexpr std::uint64_t kLeastMib = 64;  // Apptainer's, and its default
constexpr std::uint64_t kMostMib = 16ULL * 1024 * 1024;
// Above it ids do not fit the 16 bits that every ext3 has for them: then everybody may write.
constexpr unsigned kMostShortId = 65535;

// clang-format off
constexpr std::array kOptions = std::to_array<option::Option>({
    {"create-dir", 0,   "",         Kind::kArray, 1, "DIR",  "directory of the overlay, as the container will show it; may be given several times"},
    {"fakeroot",   'f', "FAKEROOT", Kind::kFlag,  1, "",     "for containers with --fakeroot: the directories belong to root"},
    {"size",       's', "",         Kind::kText,  1, "MIB",  "size of the file system in MiB, 64 or more [64]"},
    {"sparse",     'S', "SPARSE",   Kind::kFlag,  1, "",     "take space on disk when it is needed"},
    {"tmpdir",     0,   "TMPDIR",   Kind::kText,  1, "DIR",  "directory for temporary files"},
});
// clang-format on

constexpr option::Usage kUsage{"overlay create",
                               "[options] IMAGE",
                               "Make an ext3 image for --overlay, or add one to a SIF image",
                               kOptions,
                               1,
                               1,
                               1};

struct Wish {
  std::string path;
  std::uint64_t mib = kLeastMib;
  std::vector<std::string> directories;
  bool fakeroot = false;
  bool sparse = false;
  std::string tmpdir;
};

Outcome<Wish> wish_of(const option::Arguments& given) {
  Wish wish = {.path = given.positional()[0],
               .directories = given.values("create-dir"),
               .fakeroot = given.given("fakeroot"),
               .sparse = given.given("sparse"),
               .tmpdir = std::string(given.text("tmpdir"))};
  if (given.given("size")) {
    const std::string_view text = given.text("size");
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), wish.mib);
    if (error != std::errc() || end != text.data() + text.size() || wish.mib < kLeastMib ||
        wish.mib > kMostMib) {
      return Problem{"--size " + std::string(text) + ": a number of MiB from " +
                     std::to_string(kLeastMib) + " to " + std::to_string(kMostMib) +
                     " is expected"};
    }
  }
  for (const std::string& directory : wish.directories) {
    const std::filesystem::path path = std::filesystem::path("/" + directory).lexically_normal();
    if (directory.empty() || path == "/" ||
        std::find(path.begin(), path.end(), "..") != path.end()) {
      return Problem{"--create-dir '" + directory + "': a directory inside is expected"};
    }
  }
  if (wish.tmpdir.empty()) {
    const char* named = std::getenv("TMPDIR");  // NOLINT(concurrency-mt-unsafe): one thread
    wish.tmpdir = named != nullptr && named[0] == '/' ? named : "/tmp";
  }
  return wish;
}

// What the file system begins with, removed at the end.
class Tree {
 public:
  static Outcome<std::unique_ptr<Tree>> make(const Wish& wish) {
    std::string path = wish.tmpdir + "/postern-overlay-XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) {
      return system::scratch_problem(wish.tmpdir, errno);
    }
    auto tree = std::make_unique<Tree>();
    tree->path_ = std::move(path);
    std::vector<std::string> all{"upper", "work"};
    for (const std::string& directory : wish.directories) {
      std::string below = "upper";
      for (const auto& part : std::filesystem::path(directory).lexically_normal()) {
        if (part != "/" && part != "." && !part.empty()) {
          below += '/' + part.string();
          all.push_back(below);
        }
      }
    }
    const mode_t mode = ::getuid() > kMostShortId || ::getgid() > kMostShortId ? 0777 : 0755;
    for (const std::string& one : all) {
      const std::string place = tree->path_ + '/' + one;
      if ((::mkdir(place.c_str(), 0700) != 0 && errno != EEXIST) ||
          ::chmod(place.c_str(), mode) != 0) {
        return system::scratch_problem(tree->path_, errno);
      }
      tree->names_.push_back(one);
    }
    return tree;
  }

  Tree() = default;
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;

  ~Tree() {
    std::error_code ignored;
    if (!path_.empty()) {
      std::filesystem::remove_all(path_, ignored);
    }
  }

  [[nodiscard]] const std::string& path() const { return path_; }

  [[nodiscard]] const std::vector<std::string>& names() const { return names_; }

 private:
  std::string path_;
  std::vector<std::string> names_;
};

Outcome<> run(std::vector<std::string> words, int input) {
  const std::string name = words.front();
  const Result<system::Finished> done = system::run_and_read(
      {.program = name, .words = std::move(words), .passed = {{input, 0}}}, 65536);
  if (!done && done.error().err == ENOENT) {
    return Problem{name + " is not installed", "install e2fsprogs"};
  }
  if (!done) {
    return system_problem("starting " + name, done.error().err);
  }
  return done->status == 0 ? Outcome<>(Ok{})
                           : Outcome<>(Problem{name + ' ' + system::describe_end(done->status)});
}

// mkfs.ext3 and debugfs are in directories that not every PATH has.
void widen_path() {
  const char* path = std::getenv("PATH");  // NOLINT(concurrency-mt-unsafe): one thread
  const std::string wide =
      std::string(path != nullptr ? path : "/usr/bin:/bin") + ":/usr/sbin:/sbin";
  ::setenv("PATH", wide.c_str(), 1);  // NOLINT(concurrency-mt-unsafe)
}

// An ext3 file system in `image`, an empty file of this caller's alone.
Outcome<> make_file_system(const Wish& wish, int image) {
  widen_path();
  POSTERN_TRY_ASSIGN(const std::unique_ptr<Tree> tree, Tree::make(wish));
  const auto bytes = static_cast<off_t>(wish.mib << 20);
  if (::ftruncate(image, bytes) != 0) {
    return system_problem("making the overlay", errno);
  }
  if (!wish.sparse && ::posix_fallocate(image, 0, bytes) != 0) {
    return Problem{"there is no room for " + std::to_string(wish.mib) + " MiB",
                   "make it smaller, or take space when it is needed: --sparse"};
  }
  // By descriptor: the programs do not meet what has taken the file's name since.
  const std::string file = "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(image);
  const UniqueFd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  POSTERN_TRY(
      run({"mkfs.ext3", "-q", "-F", "-E", "nodiscard", "-d", tree->path(), file}, nothing.get()));
  std::string commands;
  for (const std::string& name : wish.fakeroot ? tree->names() : std::vector<std::string>()) {
    for (const char* field : {"uid", "gid"}) {
      commands += "set_inode_field \"/" + name + "\" " + field + " 0\n";
    }
  }
  if (!commands.empty()) {
    POSTERN_TRY_ASSIGN(const UniqueFd script, system::make_content_fd("postern overlay", commands));
    POSTERN_TRY(run({"debugfs", "-w", "-f", "/dev/stdin", file}, script.get()));
  }
  return Ok{};
}

Outcome<> make_file(const Wish& wish) {
  struct stat status{};
  if (::lstat(wish.path.c_str(), &status) == 0) {
    return system_problem("making " + wish.path, EEXIST);
  }
  POSTERN_TRY_ASSIGN(path::FreshFile image, path::FreshFile::create(wish.path, 0600));
  POSTERN_TRY(make_file_system(wish, image.fd()));
  return image.place_new();
}

// Why a SIF image cannot take a writable overlay.
Outcome<> check_sif(const std::string& path, const sif::Image& image) {
  POSTERN_TRY_ASSIGN(const sif::Descriptor* root, image.primary_partition());
  if (root->partition()->fs != sif::FileSystem::kSquashfs) {
    return Problem{path + ": an encrypted image cannot have an overlay in it",
                   "make the overlay a file of its own"};
  }
  for (const sif::Descriptor& object : image.descriptors()) {
    if (object.type == sif::DataType::kSignature) {
      return Problem{path + " is signed: a writable overlay in it would break the signature",
                     "make the overlay a file of its own"};
    }
    const sif::PartitionInfo* partition = object.partition();
    if (partition != nullptr && partition->type == sif::PartitionType::kOverlay &&
        partition->fs == sif::FileSystem::kExt3) {
      return Problem{
          path + " has a writable overlay already (object " + std::to_string(object.id) + ")",
          "remove it first: postern sif del"};
    }
  }
  return Ok{};
}

Outcome<> add_to_sif(const Wish& wish) {
  POSTERN_TRY_ASSIGN(sif::Writer writer, sif::Writer::open(wish.path));
  POSTERN_TRY_ASSIGN(const sif::Image image, writer.image());
  POSTERN_TRY(check_sif(wish.path, image));
  const sif::Descriptor* root = *image.primary_partition();
  POSTERN_TRY_ASSIGN(const UniqueFd image_file, system::scratch_file(wish.tmpdir));
  POSTERN_TRY(make_file_system(wish, image_file.get()));
  const sif::ObjectInput input = {
      .type = sif::DataType::kPartition,
      .name = "overlay.img",
      .group = root->group,
      .extra = sif::PartitionInfo{.fs = sif::FileSystem::kExt3,
                                  .type = sif::PartitionType::kOverlay,
                                  .architecture = root->partition()->architecture}};
  POSTERN_TRY(writer.add(input, image_file.get()));
  return writer.finish();
}

Outcome<> create(const Wish& wish) {
  POSTERN_TRY(system::check_safe_directory(wish.tmpdir));
  struct stat status = {};
  if (::stat(wish.path.c_str(), &status) == 0) {
    const UniqueFd file(::open(wish.path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
    Snapshot bytes(file.get());
    if (!file.valid() || !sif::read(bytes)) {
      return Problem{wish.path + " already exists, and is no SIF image",
                     "name another file, or remove that one first"};
    }
    return add_to_sif(wish);
  }
  return make_file(wish);
}

}  // namespace

int overlay_command(std::span<const std::string> words) {
  const bool help = !words.empty() && (words[0] == "--help" || words[0] == "-h");
  if (words.empty() || words[0] != "create") {
    const std::string text =
        "Make overlays: images that hold the changes of containers\n\nUsage:\n  postern overlay "
        "create " +
        std::string(kUsage.operands) + "\n";
    std::fputs(text.c_str(), help ? stdout : stderr);
    return help ? 0 : kExitUsage;
  }
  const auto arguments = option::parse_command(kUsage, words.subspan(1));
  if (!arguments) {
    return arguments.error();
  }
  auto wish = wish_of(*arguments);
  auto done = wish ? create(*wish) : Outcome<>(std::move(wish).error());
  if (!done) {
    message::fatal(done.error());
    return done.error().exit_code;
  }
  return 0;
}

}  // namespace postern::overlay
