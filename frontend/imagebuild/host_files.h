// Files of this host that %files adds to the tree of another source.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "frontend/imagebuild/source.h"
#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {

class HostFiles : public Source {
 public:
  explicit HostFiles(std::unique_ptr<Source> base) : base_(std::move(base)) {}

  // Copies what `from` (with wildcards; relative to the working directory) names to `to` in the
  // image, as `cp -rL` does: links are followed, directories go whole; `to` empty: the same path; a
  // present directory, or a name that ends in "/": below it. Owners become root's. Error: nothing
  // matches, a file cannot be read.
  Outcome<> copy(Tree& tree, const std::string& from, const std::string& to);

  Outcome<Tree> index() override { return base_->index(); }

  Outcome<> stream(Tree& tree, ContentSink& sink, message::Progress& progress) override;

  [[nodiscard]] std::uint64_t bytes() const override { return base_->bytes() + bytes_; }

  Outcome<std::string> head(const Tree& tree, InodeId file, std::size_t most) override;

  // A file that copy() added.
  Outcome<UniqueFd> open(InodeId file) const;

 private:
  Outcome<> copy_one(Tree& tree, const std::string& from, const std::string& to);
  Outcome<> add(Tree& tree, const std::string& from, const std::string& to, bool& is_directory);

  std::unique_ptr<Source> base_;
  std::unordered_map<InodeId, std::string> paths_;
  std::uint64_t bytes_ = 0;
};

}  // namespace postern::imagebuild
