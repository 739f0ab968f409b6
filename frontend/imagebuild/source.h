// What an image is built from, and where its files' bytes go.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "frontend/imagebuild/tree.h"
#include "policy/problem.h"

namespace postern::message {
class Progress;
}  // namespace postern::message

namespace postern::imagebuild {

// Takes the bytes of one file after the other: begin, (append | hole)*, end.
class ContentSink {
 public:
  virtual ~ContentSink() = default;
  virtual Outcome<> begin(InodeId file) = 0;
  virtual Outcome<> append(std::span<const std::byte> bytes) = 0;
  virtual Outcome<> hole(std::uint64_t bytes) = 0;  // zeros
  virtual Outcome<> end() = 0;
};

class Source {
 public:
  virtual ~Source() = default;

  // Reads and checks everything but the bytes of files (archives: those too, for their digests).
  virtual Outcome<Tree> index() = 0;

  // Gives the bytes of every reachable file of `tree` that is not literal to `sink`, in the order
  // that is cheapest here; the order depends on the input only. `progress` advances by bytes() in
  // all.
  virtual Outcome<> stream(Tree& tree, ContentSink& sink, message::Progress& progress) = 0;

  // What stream() will add to the progress, in bytes.
  [[nodiscard]] virtual std::uint64_t bytes() const = 0;

  // The first `most` bytes of a file, fewer if it is shorter or if the source cannot tell (archives
  // know what they captured).
  virtual Outcome<std::string> head(const Tree& tree, InodeId file, std::size_t most) = 0;
};

// A tar member may claim a hole of any size in a few bytes; each hole costs time, and four bytes of
// image per block. This is what one image may have of them in all; no real image comes near.
inline constexpr std::uint64_t kMaxHole = std::uint64_t{64} << 30;

}  // namespace postern::imagebuild
