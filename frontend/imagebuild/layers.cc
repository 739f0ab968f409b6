#include "frontend/imagebuild/layers.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "frontend/imagebuild/interrupt.h"
#include "frontend/imagebuild/stream.h"
#include "frontend/imagebuild/tar_reader.h"
#include "frontend/message/message.h"
#include "frontend/message/progress.h"

namespace postern::imagebuild {
namespace {

// Enough of a program to know its architecture (elf(5): e_machine ends at byte 20).
constexpr std::size_t kProgramHead = 20;

// What one layer's reading needs, in the order of the data: file, hash, decompression, hash, tar.
struct Chain {
  FileStream file;
  HashingStream stored;
  DecompressingStream plain;
  HashingStream hashed;
  TarReader tar;

  explicit Chain(const Layer& layer)
      : file(layer.fd, layer.offset, layer.size, layer.name),
        stored(file),
        plain(stored, layer.name),
        hashed(plain),
        tar(hashed, layer.name) {
    file.await(layer.available);
  }
};

class LayerSource : public Source {
 public:
  LayerSource(std::vector<Layer> layers, LayerOptions options)
      : layers_(std::move(layers)), options_(options) {}

  Outcome<Tree> index() override;
  Outcome<> stream(Tree& tree, ContentSink& sink, message::Progress& progress) override;

  [[nodiscard]] std::uint64_t bytes() const override { return bytes_; }

  Outcome<std::string> head(const Tree& tree, InodeId file, std::size_t most) override {
    return tree[file].captured.substr(0, most);
  }

 private:
  Outcome<> index_layer(Tree& tree, std::uint32_t number, message::Progress& progress);
  Outcome<> take_entry(Tree& tree, TarReader& tar, TarEntry entry, ContentPlace place);
  Outcome<> stream_layer(const Layer& layer,
                         const std::unordered_map<std::uint64_t, InodeId>& wanted,
                         Tree& tree,
                         ContentSink& sink,
                         message::Progress& progress);

  std::vector<Layer> layers_;
  LayerOptions options_;
  std::uint64_t bytes_ = 0;
};

Outcome<Tree> LayerSource::index() {
  Tree tree;
  std::uint64_t total = 0;
  for (const Layer& layer : layers_) {
    total += layer.size;
  }
  bytes_ = total;
  message::Progress progress("Reading  ", total);
  for (std::uint32_t number = 0; number < layers_.size(); ++number) {
    POSTERN_TRY(index_layer(tree, number, progress));
  }
  return tree;
}

Outcome<> LayerSource::index_layer(Tree& tree, std::uint32_t number, message::Progress& progress) {
  const Layer& layer = layers_[number];
  Chain chain(layer);
  chain.file.on_read([&](std::uint64_t bytes) { progress.advance(bytes); });
  std::uint64_t position = 0;
  while (true) {
    POSTERN_TRY(check_interrupt());
    POSTERN_TRY_ASSIGN(std::optional<TarEntry> entry, chain.tar.next());
    if (!entry) {
      break;
    }
    POSTERN_TRY(take_entry(tree, chain.tar, std::move(*entry), {number, position++}));
  }
  POSTERN_TRY_ASSIGN(const std::string diff_id, chain.hashed.digest());
  POSTERN_TRY_ASSIGN(const std::string digest, chain.stored.digest());
  const auto differs = [&](const std::string& expected, const std::string& found,
                           const char* what) {
    return Problem{.what = layer.name + " is not what its " + what + " says (" + found +
                           " instead of " + expected + ")",
                   .cure = "the image is damaged or was altered: copy or download it again"};
  };
  if (!layer.digest.empty() && digest != layer.digest) {
    return differs(layer.digest, digest, "manifest");
  }
  if (!layer.diff_id.empty() && diff_id != layer.diff_id) {
    return differs(layer.diff_id, diff_id, "configuration");
  }
  if (layer.diff_id.empty() && !chain.hashed.ends_in_zeros()) {
    progress.hide();
    message::warning(layer.name + " has no end mark: its last files may be missing");
  }
  return {};
}

Outcome<> LayerSource::take_entry(Tree& tree, TarReader& tar, TarEntry entry, ContentPlace place) {
  if (entry.ignored) {
    return {};
  }
  POSTERN_TRY_ASSIGN(const std::vector<std::string> path, split_path(entry.name));
  if (options_.whiteouts) {
    POSTERN_TRY_ASSIGN(const bool was_mark, tree.apply_whiteout(path, place.source));
    if (was_mark) {
      return {};
    }
  }
  if (entry.hard_link) {
    POSTERN_TRY_ASSIGN(const std::vector<std::string> target, split_path(entry.link_target));
    return path == target ? Outcome<>() : tree.link(path, target, place.source);
  }
  Inode& inode = entry.inode;
  inode.place = place;
  if (inode.kind == Kind::kFile && inode.size > 0) {
    const bool whole = captures(path) && inode.size <= kMaxCaptured;
    const std::size_t most = whole ? inode.size : (inode.mode & 0111) != 0 ? kProgramHead : 0;
    while (inode.captured.size() < most) {
      POSTERN_TRY_ASSIGN(const std::optional<TarReader::Piece> piece, tar.read());
      if (!piece) {
        break;
      }
      const std::size_t gap =
          piece->offset - std::min<std::uint64_t>(piece->offset, inode.captured.size());
      inode.captured.append(std::min(gap, most - inode.captured.size()), '\0');
      const auto* text =
          reinterpret_cast<const char*>(piece->bytes.data());  // SAFETY: bytes as text
      inode.captured.append(text, std::min(piece->bytes.size(), most - inode.captured.size()));
    }
    if (!whole && !inode.captured.starts_with("\x7f"
                                              "ELF")) {
      inode.captured = std::string();
    }
  }
  POSTERN_TRY(tree.put(path, std::move(inode), place.source));
  return {};
}

Outcome<> LayerSource::stream(Tree& tree, ContentSink& sink, message::Progress& progress) {
  std::vector<std::unordered_map<std::uint64_t, InodeId>> wanted(layers_.size());
  for (InodeId id = 0; id < tree.size(); ++id) {
    const Inode& inode = tree[id];
    if (inode.kind == Kind::kFile && inode.links > 0 && inode.size > 0 &&
        inode.origin == Origin::kSource) {
      wanted[inode.place.source].emplace(inode.place.position, id);
    }
  }
  for (std::size_t number = 0; number < layers_.size(); ++number) {
    if (wanted[number].empty()) {
      progress.advance(layers_[number].size);  // nothing of this layer is left in the image
      continue;
    }
    POSTERN_TRY(stream_layer(layers_[number], wanted[number], tree, sink, progress));
  }
  return {};
}

Outcome<> LayerSource::stream_layer(const Layer& layer,
                                    const std::unordered_map<std::uint64_t, InodeId>& wanted,
                                    Tree& tree,
                                    ContentSink& sink,
                                    message::Progress& progress) {
  FileStream file(layer.fd, layer.offset, layer.size, layer.name);
  std::uint64_t left = layer.size;
  file.on_read([&](std::uint64_t bytes) {
    progress.advance(bytes);
    left -= bytes;
  });
  DecompressingStream plain(file, layer.name);
  TarReader tar(plain, layer.name);
  const auto changed = [&] {
    return Problem{.what = layer.name + " changed while it was read",
                   .cure = "build again when nothing writes to it"};
  };
  std::size_t found = 0;
  for (std::uint64_t position = 0; found < wanted.size(); ++position) {
    POSTERN_TRY_ASSIGN(const std::optional<TarEntry> entry, tar.next());
    if (!entry) {
      return changed();
    }
    const auto match = wanted.find(position);
    if (match == wanted.end()) {
      continue;
    }
    ++found;
    const std::uint64_t size = tree[match->second].size;
    if (entry->hard_link || entry->inode.kind != Kind::kFile || entry->inode.size != size) {
      return changed();
    }
    POSTERN_TRY(sink.begin(match->second));
    std::uint64_t at = 0;
    const auto hole_until = [&](std::uint64_t offset) -> Outcome<> {
      if (offset - at > kMaxHole) {
        return Problem{.what = "'" + entry->name + "' in " + layer.name + " is a hole of " +
                               message::human_bytes(offset - at),
                       .cure = "no image needs such a file: do not trust this archive"};
      }
      POSTERN_TRY(sink.hole(offset - at));
      at = offset;
      return {};
    };
    while (true) {
      POSTERN_TRY_ASSIGN(const std::optional<TarReader::Piece> piece, tar.read());
      if (!piece) {
        break;
      }
      POSTERN_TRY(check_interrupt());
      if (piece->offset < at || piece->offset > size ||
          piece->bytes.size() > size - piece->offset) {
        return changed();
      }
      if (piece->offset > at) {
        POSTERN_TRY(hole_until(piece->offset));
      }
      POSTERN_TRY(sink.append(piece->bytes));
      at += piece->bytes.size();
    }
    if (at < size) {
      POSTERN_TRY(hole_until(size));
    }
    POSTERN_TRY(sink.end());
  }
  progress.advance(left);
  return {};
}

}  // namespace

std::unique_ptr<Source> layer_source(std::vector<Layer> layers, LayerOptions options) {
  return std::make_unique<LayerSource>(std::move(layers), options);
}

}  // namespace postern::imagebuild
