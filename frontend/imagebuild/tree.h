// The file system of an image while it is built: names, ownership, modes and where each file's
// bytes are. It lives in memory and nowhere else, so that nothing an archive says (links, `..`,
// device nodes, owners) touches the host, and ownership survives without root.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "policy/problem.h"

namespace postern::imagebuild {

enum class Kind : std::uint8_t { kFile, kDirectory, kSymlink, kCharDevice, kBlockDevice, kFifo };

// Who has the bytes of a file: the source of the tree, `captured` (files that the build adds), or a
// file of this host that %files names.
enum class Origin : std::uint8_t { kSource, kLiteral, kHost };

struct Attribute {  // extended attribute: full name with its prefix, raw value
  std::string name;
  std::string value;
};

// Where the bytes of a file are. `source` and `position` mean what the Source that made the tree
// wants them to mean (layer and entry number in it, for archives).
struct ContentPlace {
  std::uint32_t source = 0;
  std::uint64_t position = 0;
};

using InodeId = std::uint32_t;

struct Entry {
  InodeId inode = 0;
  std::uint32_t layer = 0;  // the last layer that wrote this name
};

// Ordered by bytes, as squashfs directories must be.
using Children = std::map<std::string, Entry, std::less<>>;

struct Inode {
  Kind kind = Kind::kFile;
  Origin origin = Origin::kSource;
  std::uint16_t mode = 0;  // permission bits, 07777
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t links = 0;  // names that lead here; set by Tree::finish
  std::uint32_t major = 0;  // device nodes
  std::uint32_t minor = 0;
  std::int64_t mtime = 0;  // seconds since 1970
  std::uint64_t size = 0;  // bytes of a file
  ContentPlace place;
  std::string target;  // of a symbolic link
  // The whole file where a source found it small and of interest (captures()), else the first
  // bytes of a program (for its architecture), else empty.
  std::string captured;
  std::vector<Attribute> attributes;
  std::unique_ptr<Children> children;  // of a directory, never null there
};

// Bounds on what a hostile archive can make us hold in memory; the largest images known stay an
// order of magnitude below.
inline constexpr std::size_t kMaxDepth = 2048;   // components of a path
inline constexpr std::size_t kMaxName = 255;     // NAME_MAX, and squashfs's own limit is 256
inline constexpr std::size_t kMaxTarget = 4095;  // PATH_MAX less the NUL
inline constexpr std::size_t kMaxCaptured = std::size_t{1} << 20;
// Bytes of the table of files: nodes, names, links, attributes, captured files. About six million
// files of ordinary names.
inline constexpr std::size_t kMaxMetadata = std::size_t{3} << 29;

// Components of an archive member's name: absolute names count from the image's root; "." and
// empty components vanish. A ".." component, a NUL byte, or a name too long or deep is a Problem.
Outcome<std::vector<std::string>> split_path(std::string_view path);

// True for the files that the build itself reads: /.singularity.d and the descriptions of SCIF
// apps. `components` as from split_path.
bool captures(const std::vector<std::string>& components);

class Tree {
 public:
  // `most`: bytes of nodes, names, links, attributes and captured files that it will hold.
  explicit Tree(std::size_t most = kMaxMetadata);

  [[nodiscard]] InodeId root() const noexcept { return 0; }

  Inode& operator[](InodeId id) { return inodes_[id]; }

  const Inode& operator[](InodeId id) const { return inodes_[id]; }

  [[nodiscard]] std::size_t size() const noexcept { return inodes_.size(); }

  // Puts `inode` at `path`, as unpacking layer `layer` over the layers below would: missing parents
  // appear, symbolic links in the parents are followed inside the image, whatever stands at the
  // name is replaced, except that a directory over a directory keeps its children.
  Outcome<InodeId> put(const std::vector<std::string>& path, Inode inode, std::uint32_t layer);

  // Another name for the file at `target`.
  Outcome<> link(const std::vector<std::string>& path,
                 const std::vector<std::string>& target,
                 std::uint32_t layer);

  // If the last component is a whiteout mark (OCI image specification, "Whiteouts"), applies it to
  // what the layers below `layer` left and returns true.
  Outcome<bool> apply_whiteout(const std::vector<std::string>& path, std::uint32_t layer);

  // The inode at `path` (components separated by "/"), following symbolic links inside the image,
  // the last one too if `follow`; nullptr where there is none.
  [[nodiscard]] const Inode* find(std::string_view path, bool follow = true) const;
  [[nodiscard]] std::uint32_t find_id(std::string_view path, bool follow = true) const;
  static constexpr InodeId kNone = ~InodeId{0};

  // Direct child of a directory, kNone where there is none.
  [[nodiscard]] InodeId child(InodeId directory, std::string_view name) const;

  void remove(InodeId directory, std::string_view name);

  // Counts links. Call once, when the tree is complete. Returns the number of inodes in use.
  std::size_t finish();

  // Every reachable inode once, directories before what they hold, names in order. `path` has no
  // leading slash and is empty for the root.
  void walk(const std::function<void(const std::string& path, InodeId id)>& visit) const;

  Outcome<InodeId> add_inode(Inode inode);
  void enter(InodeId directory, std::string name, InodeId id, std::uint32_t layer);

 private:
  // The directory that `components` name. With `make`, missing parts are made and files in the way
  // replaced; without, kNone where it is not there.
  Outcome<InodeId> directory_at(const std::vector<std::string>& components,
                                std::uint32_t layer,
                                bool make);
  void prune_below(InodeId directory, std::uint32_t layer);
  Outcome<> charge(std::size_t bytes);

  std::deque<Inode> inodes_;  // ids are stable, addresses too
  std::size_t most_;
  std::size_t metadata_ = 0;  // bytes held so far
};

}  // namespace postern::imagebuild
