// Writes a tree to a directory of this host (a sandbox).
#pragma once

#include <string>

#include "frontend/imagebuild/source.h"

namespace postern::imagebuild {

// A new directory beside its final name, which it gets when it is whole. Removes itself otherwise.
class NewDirectory {
 public:
  // `target` need not exist; its parent must. Errors: the parent is missing or not writable.
  static Outcome<NewDirectory> create(const std::string& target);

  NewDirectory(NewDirectory&& other) noexcept;
  NewDirectory& operator=(NewDirectory&&) = delete;
  NewDirectory(const NewDirectory&) = delete;
  NewDirectory& operator=(const NewDirectory&) = delete;
  ~NewDirectory();

  // Its present path.
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

  // Gives it its name; a directory that stands there is replaced and then removed.
  Outcome<> finish();

  // Leaves it where it is (--no-cleanup).
  void keep() noexcept { path_.clear(); }

 private:
  NewDirectory(std::string path, std::string target)
      : path_(std::move(path)), target_(std::move(target)) {}

  std::string path_;  // empty: nothing to remove
  std::string target_;
};

// Fills the empty directory at `path`. As root, owners and devices are made; else what cannot be
// made is left out, with one warning for all of a kind. tree.finish() must have been called.
Outcome<> write_directory(Tree& tree,
                          Source& source,
                          const std::string& path,
                          message::Progress& progress);

// Writes what the build adds to a source (every Origin but kSource) into the present directory at
// `path`, in place of what stands there under their names.
Outcome<> write_additions(const Tree& tree, Source& source, const std::string& path);

// Removes the directory at `path`.
Outcome<> remove_directory(const std::string& path);

}  // namespace postern::imagebuild
