#include "frontend/imagebuild/squash_writer.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include <sys/stat.h>

#include <lzo/lzo1x.h>
#include <sqfs/block.h>
#include <sqfs/block_processor.h>
#include <sqfs/block_writer.h>
#include <sqfs/compressor.h>
#include <sqfs/dir_writer.h>
#include <sqfs/error.h>
#include <sqfs/frag_table.h>
#include <sqfs/id_table.h>
#include <sqfs/inode.h>
#include <sqfs/io.h>
#include <sqfs/meta_writer.h>
#include <sqfs/super.h>
#include <sqfs/xattr.h>
#include <sqfs/xattr_writer.h>
#include <unistd.h>

#include "frontend/imagebuild/interrupt.h"
#include "frontend/message/message.h"
#include "frontend/message/progress.h"
#include "policy/write_problem.h"

namespace postern::imagebuild {
namespace {

constexpr std::uint32_t kNoAttributes = 0xFFFFFFFF;
// What every start reads, one after the other. Each has a block of its own, which takes some
// microseconds to decode; in a fragment it would lie among the ends of unrelated files, 128 KiB of
// them.
constexpr std::array kStartFiles = {"etc/passwd", "etc/group", "etc/ld.so.cache"};
constexpr const char* kStartScripts = ".singularity.d/env";
constexpr std::uint64_t kMaxStartFileBytes = 32 << 10;
constexpr std::size_t kMaxStartFiles = 64;
constexpr std::size_t kPadding = 4096;         // loop devices and dm-verity want whole blocks
constexpr std::size_t kBacklogPerThread = 10;  // blocks in flight

struct Destroy {
  template <class T>
  void operator()(T* object) const {
    sqfs_destroy(object);
  }
};
template <class T>
using Owned = std::unique_ptr<T, Destroy>;

struct FreeInode {
  void operator()(sqfs_inode_generic_t* inode) const { sqfs_free(inode); }
};

using OwnedInode = std::unique_ptr<sqfs_inode_generic_t, FreeInode>;

// SAFETY: the first member of each object below is the interface that libsquashfs knows, as C's
// "derived" structs are made; both types are standard layout.
template <class Derived, class Base>
Derived* derived(Base* base) {
  static_assert(std::is_standard_layout_v<Derived>);
  return reinterpret_cast<Derived*>(base);
}

template <class Derived, class Base>
const Derived* derived(const Base* base) {
  static_assert(std::is_standard_layout_v<Derived>);
  return reinterpret_cast<const Derived*>(base);
}

// The image's place in the output file, as libsquashfs's file interface.
struct OutputFile {
  sqfs_file_t base{};
  int fd = -1;
  std::uint64_t start = 0;
  std::uint64_t size = 0;
  int error = 0;  // errno of the first failure

  OutputFile(int output, std::uint64_t offset) : fd(output), start(offset) {
    base.base.destroy = [](sqfs_object_t*) {};  // lives on the stack of write_squashfs
    base.read_at = read_at;
    base.write_at = write_at;
    base.get_size = [](const sqfs_file_t* file) {
      return sqfs_u64{derived<OutputFile>(file)->size};
    };
    base.truncate = [](sqfs_file_t* file, sqfs_u64 bytes) {  // the last file was a duplicate
      OutputFile& self = *derived<OutputFile>(file);
      self.size = bytes;
      return ::ftruncate(self.fd, static_cast<off_t>(self.start + bytes)) == 0 ? 0
                                                                               : self.failed(errno);
    };
  }

  int failed(int err) {
    if (error == 0) {
      error = err;
    }
    return SQFS_ERROR_IO;
  }

  static int read_at(sqfs_file_t* file, sqfs_u64 offset, void* buffer, std::size_t bytes) {
    OutputFile& self = *derived<OutputFile>(file);
    auto* to = static_cast<char*>(buffer);
    while (bytes > 0) {
      const ssize_t got = ::pread(self.fd, to, bytes, static_cast<off_t>(self.start + offset));
      if (got < 0 && errno == EINTR) {
        continue;
      }
      if (got <= 0) {
        return got == 0 ? static_cast<int>(SQFS_ERROR_OUT_OF_BOUNDS) : self.failed(errno);
      }
      to += got;
      offset += static_cast<sqfs_u64>(got);
      bytes -= static_cast<std::size_t>(got);
    }
    return 0;
  }

  static int write_at(sqfs_file_t* file, sqfs_u64 offset, const void* buffer, std::size_t bytes) {
    OutputFile& self = *derived<OutputFile>(file);
    const auto* from = static_cast<const char*>(buffer);
    while (bytes > 0) {
      const ssize_t put = ::pwrite(self.fd, from, bytes, static_cast<off_t>(self.start + offset));
      if (put < 0 && errno == EINTR) {
        continue;
      }
      if (put <= 0) {
        return self.failed(put == 0 ? EIO : errno);
      }
      from += put;
      offset += static_cast<sqfs_u64>(put);
      bytes -= static_cast<std::size_t>(put);
      self.size = std::max<std::uint64_t>(self.size, offset);
    }
    return 0;
  }
};

static_assert(std::is_standard_layout_v<OutputFile>);

// Around libsquashfs's compressors: what does not become smaller is stored as it is. Its LZ4
// returns such blocks larger than they were, and unsquashfs calls that corruption.
struct StrictCompressor {
  sqfs_compressor_t base{};
  sqfs_compressor_t* inner = nullptr;
  bool store = false;  // everything as it is

  static sqfs_s32 run(
      sqfs_compressor_t* base, const sqfs_u8* in, sqfs_u32 size, sqfs_u8* out, sqfs_u32 room) {
    const StrictCompressor& self = *derived<StrictCompressor>(base);
    if (self.store) {
      return 0;
    }
    const sqfs_s32 length = self.inner->do_block(self.inner, in, size, out, room);
    return length > 0 && static_cast<sqfs_u32>(length) >= size ? 0 : length;
  }
};

static_assert(std::is_standard_layout_v<StrictCompressor>);

sqfs_compressor_t* make_strict(sqfs_compressor_t* inner, bool store) {
  auto* made = new StrictCompressor();
  made->inner = inner;
  made->store = store;
  made->base.base.destroy = [](sqfs_object_t* object) {
    auto* self = derived<StrictCompressor>(object);
    sqfs_destroy(self->inner);
    delete self;
  };
  made->base.base.copy = [](const sqfs_object_t* object) -> sqfs_object_t* {
    const auto* self = derived<StrictCompressor>(object);
    auto* inner_copy = static_cast<sqfs_compressor_t*>(sqfs_copy(self->inner));
    return inner_copy == nullptr ? nullptr : &make_strict(inner_copy, self->store)->base;
  };
  made->base.get_configuration = [](const sqfs_compressor_t* compressor,
                                    sqfs_compressor_config_t* out) {
    const auto* self = derived<StrictCompressor>(compressor);
    self->inner->get_configuration(self->inner, out);
  };
  made->base.write_options = [](sqfs_compressor_t* compressor, sqfs_file_t* file) {
    const auto* self = derived<StrictCompressor>(compressor);
    return self->inner->write_options(self->inner, file);
  };
  made->base.read_options = [](sqfs_compressor_t*, sqfs_file_t*) { return 0; };
  made->base.do_block = StrictCompressor::run;
  return &made->base;
}

// LZO, which Debian's libsquashfs leaves to its callers (liblzo2 is GPL).
struct LzoCompressor {
  sqfs_compressor_t base{};
  std::uint32_t block_bytes = 0;
  int level = 8;
  bool extract = false;
  std::vector<unsigned char>* work = nullptr;     // the algorithm's memory
  std::vector<unsigned char>* scratch = nullptr;  // output may be larger than its input

  static sqfs_s32 run(
      sqfs_compressor_t* base, const sqfs_u8* in, sqfs_u32 size, sqfs_u8* out, sqfs_u32 room) {
    LzoCompressor& self = *derived<LzoCompressor>(base);
    if (self.extract) {
      lzo_uint length = room;
      return lzo1x_decompress_safe(in, size, out, &length, nullptr) == LZO_E_OK
                 ? static_cast<sqfs_s32>(length)
                 : static_cast<sqfs_s32>(SQFS_ERROR_COMPRESSOR);
    }
    lzo_uint length = self.scratch->size();
    if (lzo1x_999_compress_level(in, size, self.scratch->data(), &length, self.work->data(),
                                 nullptr, 0, nullptr, self.level) != LZO_E_OK) {
      return SQFS_ERROR_COMPRESSOR;
    }
    if (length >= size || length > room) {
      return 0;
    }
    std::memcpy(out, self.scratch->data(), length);
    return static_cast<sqfs_s32>(length);
  }
};

static_assert(std::is_standard_layout_v<LzoCompressor>);

sqfs_compressor_t* make_lzo(std::uint32_t block_bytes, int level, bool extract) {
  auto* made = new LzoCompressor();
  made->block_bytes = block_bytes;
  made->level = level;
  made->extract = extract;
  made->work = new std::vector<unsigned char>(LZO1X_999_MEM_COMPRESS);
  made->scratch = new std::vector<unsigned char>(block_bytes + block_bytes / 16 + 64 + 3);
  made->base.base.destroy = [](sqfs_object_t* object) {
    auto* self = derived<LzoCompressor>(object);
    delete self->work;
    delete self->scratch;
    delete self;
  };
  made->base.base.copy = [](const sqfs_object_t* object) {
    const auto* self = derived<LzoCompressor>(object);
    return &make_lzo(self->block_bytes, self->level, self->extract)->base;
  };
  made->base.get_configuration = [](const sqfs_compressor_t* compressor,
                                    sqfs_compressor_config_t* out) {
    const auto* self = derived<LzoCompressor>(compressor);
    *out = {};
    out->id = SQFS_COMP_LZO;
    out->block_size = self->block_bytes;
    out->level = static_cast<sqfs_u32>(self->level);
    out->opt.lzo.algorithm = SQFS_LZO1X_999;
  };
  // Options are stored where they differ from what readers assume (squashfs: algorithm 999, level
  // 8); to extract, level and algorithm do not matter.
  made->base.write_options = [](sqfs_compressor_t*, sqfs_file_t*) { return 0; };
  made->base.read_options = [](sqfs_compressor_t*, sqfs_file_t*) { return 0; };
  made->base.do_block = LzoCompressor::run;
  return &made->base;
}

SQFS_COMPRESSOR identifier(Compression compression) {
  switch (compression) {
    case Compression::kZstd:
      return SQFS_COMP_ZSTD;
    case Compression::kXz:
      return SQFS_COMP_XZ;
    case Compression::kLz4:
      return SQFS_COMP_LZ4;
    case Compression::kLzo:
      return SQFS_COMP_LZO;
    case Compression::kGzip:
    case Compression::kNone:  // a name is needed: the one that every reader has
      break;
  }
  return SQFS_COMP_GZIP;
}

std::string words(int error) {
  switch (error) {
    case SQFS_ERROR_ALLOC:
      return "out of memory";
    case SQFS_ERROR_COMPRESSOR:
      return "the compressor failed";
    case SQFS_ERROR_OVERFLOW:
      return "a number or name is too large for squashfs (more than 65536 different owners, or a "
             "name "
             "over 256 bytes)";
    case SQFS_ERROR_UNSUPPORTED:
      return "squashfs cannot hold it, or libsquashfs was built without this compressor";
    default:
      return "libsquashfs error " + std::to_string(error);
  }
}

std::uint32_t clamped_time(std::int64_t time) {
  return static_cast<std::uint32_t>(
      std::clamp<std::int64_t>(time, 0, std::numeric_limits<std::uint32_t>::max()));
}

std::uint16_t type_bits(Kind kind) {
  switch (kind) {
    case Kind::kFile:
      return S_IFREG;
    case Kind::kDirectory:
      return S_IFDIR;
    case Kind::kSymlink:
      return S_IFLNK;
    case Kind::kCharDevice:
      return S_IFCHR;
    case Kind::kBlockDevice:
      return S_IFBLK;
    case Kind::kFifo:
      return S_IFIFO;
  }
  return 0;
}

class Writer : public ContentSink {
 public:
  Writer(Tree& tree, const SquashOptions& options, int fd, std::uint64_t offset)
      : tree_(tree),
        options_(options),
        file_(fd, offset),
        inodes_(tree.size()),
        places_(tree.size()) {}

  ~Writer() override {
    processor_.reset();  // it keeps pointers into inodes_
    for (sqfs_inode_generic_t* inode : inodes_) {
      sqfs_free(inode);
    }
  }

  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  Outcome<> open();
  Outcome<> write_literals();
  Outcome<std::uint64_t> finish();

  Outcome<> begin(InodeId file) override;
  Outcome<> append(std::span<const std::byte> bytes) override;
  Outcome<> hole(std::uint64_t bytes) override;
  Outcome<> end() override;

 private:
  struct Place {
    std::uint32_t number = 0;     // inode number, from 1
    std::uint64_t reference = 0;  // where the inode was written
  };

  Outcome<> create_compressors();
  void find_start_files();
  Outcome<> check(int status, const char* doing);
  Outcome<> write_inodes();
  void number_inodes();
  Outcome<> write_inode(InodeId id, sqfs_meta_writer_t* to, sqfs_dir_writer_t* directories);
  Outcome<OwnedInode> make_inode(InodeId id, sqfs_dir_writer_t* directories);
  Outcome<OwnedInode> make_directory(InodeId id, sqfs_dir_writer_t* directories);
  Outcome<std::uint32_t> write_attributes(const Inode& inode);

  Tree& tree_;
  const SquashOptions& options_;
  OutputFile file_;
  sqfs_super_t super_{};
  Owned<sqfs_compressor_t> compressor_;
  Owned<sqfs_compressor_t> extractor_;
  Owned<sqfs_frag_table_t> fragments_;
  Owned<sqfs_block_writer_t> blocks_;
  Owned<sqfs_id_table_t> owners_;
  Owned<sqfs_xattr_writer_t> attributes_;
  Owned<sqfs_block_processor_t> processor_;
  std::vector<sqfs_inode_generic_t*> inodes_;  // of files, made by the block processor
  std::vector<Place> places_;
  std::uint64_t holes_ = 0;  // bytes of them so far
  std::vector<InodeId> start_files_;
  std::vector<InodeId> order_;    // children before parents
  std::vector<InodeId> parents_;  // of directories
};

Outcome<> Writer::check(int status, const char* doing) {
  if (status == 0) {
    return {};
  }
  if (file_.error != 0) {
    return write_problem("writing the image", file_.error, options_.elsewhere);
  }
  return Problem{.what = std::string(doing) + ": " + words(status)};
}

Outcome<> Writer::create_compressors() {
  if (options_.compression == Compression::kLzo) {
    if (lzo_init() != LZO_E_OK) {
      return Problem{.what = "the LZO library does not work on this machine"};
    }
    const int level = static_cast<int>(options_.level.value_or(SQFS_LZO_DEFAULT_LEVEL));
    compressor_.reset(make_lzo(options_.block_bytes, level, false));
    extractor_.reset(make_lzo(options_.block_bytes, level, true));
    return {};
  }
  sqfs_compressor_config_t config{};
  const SQFS_COMPRESSOR id = identifier(options_.compression);
  POSTERN_TRY(check(sqfs_compressor_config_init(&config, id, options_.block_bytes, 0),
                    "setting up the compressor"));
  if (options_.level && options_.compression != Compression::kNone &&
      options_.compression != Compression::kLz4) {
    config.level = *options_.level;
  }
  sqfs_compressor_t* made = nullptr;
  POSTERN_TRY(check(sqfs_compressor_create(&config, &made), "setting up the compressor"));
  compressor_.reset(make_strict(made, options_.compression == Compression::kNone));
  config.flags |= SQFS_COMP_FLAG_UNCOMPRESS;
  POSTERN_TRY(check(sqfs_compressor_create(&config, &made), "setting up the decompressor"));
  extractor_.reset(made);
  return {};
}

void Writer::find_start_files() {
  const auto add = [this](InodeId id) {
    if (start_files_.size() < kMaxStartFiles && id != Tree::kNone &&
        tree_[id].kind == Kind::kFile && tree_[id].size <= kMaxStartFileBytes) {
      start_files_.push_back(id);
    }
  };
  for (const char* path : kStartFiles) {
    add(tree_.find_id(path));
  }
  const Inode* const scripts = tree_.find(kStartScripts);
  if (scripts != nullptr && scripts->kind == Kind::kDirectory) {
    for (const auto& [name, entry] : *scripts->children) {
      add(entry.inode);
    }
  }
}

Outcome<> Writer::open() {
  find_start_files();
  POSTERN_TRY(create_compressors());
  const std::uint32_t time = clamped_time(options_.time);
  POSTERN_TRY(
      check(sqfs_super_init(&super_, options_.block_bytes, time, identifier(options_.compression)),
            "setting up the image"));
  POSTERN_TRY(check(sqfs_super_write(&super_, &file_.base), "writing the image"));
  const int stored = compressor_->write_options(compressor_.get(), &file_.base);
  if (stored < 0) {
    return check(stored, "writing the image");
  }
  if (stored > 0) {
    super_.flags |= SQFS_FLAG_COMPRESSOR_OPTIONS;
  }
  fragments_.reset(sqfs_frag_table_create(0));
  blocks_.reset(sqfs_block_writer_create(&file_.base, kPadding, 0));
  owners_.reset(sqfs_id_table_create(0));
  attributes_.reset(sqfs_xattr_writer_create(0));
  if (!fragments_ || !blocks_ || !owners_ || !attributes_) {
    return check(SQFS_ERROR_ALLOC, "setting up the image");
  }
  sqfs_block_processor_desc_t wanted{};
  wanted.size = sizeof(wanted);
  wanted.max_block_size = options_.block_bytes;
  wanted.num_workers = options_.threads;
  wanted.max_backlog = static_cast<sqfs_u32>(options_.threads * kBacklogPerThread);
  wanted.cmp = compressor_.get();
  wanted.wr = blocks_.get();
  wanted.tbl = fragments_.get();
  wanted.file = &file_.base;
  wanted.uncmp = extractor_.get();
  sqfs_block_processor_t* processor = nullptr;
  POSTERN_TRY(
      check(sqfs_block_processor_create_ex(&wanted, &processor), "starting the compressors"));
  processor_.reset(processor);
  return {};
}

Outcome<> Writer::begin(InodeId file) {
  const bool apart =
      std::find(start_files_.begin(), start_files_.end(), file) != start_files_.end();
  return check(sqfs_block_processor_begin_file(processor_.get(), &inodes_[file], nullptr,
                                               apart ? SQFS_BLK_DONT_FRAGMENT : 0),
               "storing a file");
}

Outcome<> Writer::append(std::span<const std::byte> bytes) {
  return check(sqfs_block_processor_append(processor_.get(), bytes.data(), bytes.size()),
               "storing a file");
}

Outcome<> Writer::hole(std::uint64_t bytes) {
  static constexpr std::array<std::byte, 1 << 16> kZeros{};
  holes_ += bytes;
  if (holes_ > kMaxHole) {
    return Problem{
        .what = "the files of this image have holes of more than " +
                message::human_bytes(kMaxHole) + " in all",
        .cure = "truncate sparse files such as /var/log/lastlog, or do not trust the source"};
  }
  while (bytes > 0) {
    POSTERN_TRY(check_interrupt());
    const auto piece = static_cast<std::size_t>(std::min<std::uint64_t>(bytes, kZeros.size()));
    POSTERN_TRY(append({kZeros.data(), piece}));
    bytes -= piece;
  }
  return {};
}

Outcome<> Writer::end() {
  return check(sqfs_block_processor_end_file(processor_.get()), "storing a file");
}

Outcome<> Writer::write_literals() {
  for (InodeId id = 0; id < tree_.size(); ++id) {
    const Inode& inode = tree_[id];
    if (inode.kind == Kind::kFile && inode.origin == Origin::kLiteral && inode.links > 0 &&
        !inode.captured.empty()) {
      POSTERN_TRY(begin(id));
      POSTERN_TRY(append(std::as_bytes(std::span(inode.captured))));
      POSTERN_TRY(end());
    }
  }
  return {};
}

void Writer::number_inodes() {
  struct Level {
    InodeId directory;
    Children::const_iterator next;
  };

  parents_.assign(tree_.size(), tree_.root());
  std::vector<Level> levels{{tree_.root(), tree_[tree_.root()].children->begin()}};
  const auto take = [&](InodeId id) {
    order_.push_back(id);
    places_[id].number = static_cast<std::uint32_t>(order_.size());
  };
  while (!levels.empty()) {
    Level& level = levels.back();
    if (level.next == tree_[level.directory].children->end()) {
      take(level.directory);
      levels.pop_back();
      continue;
    }
    const InodeId id = (level.next++)->second.inode;
    if (tree_[id].kind == Kind::kDirectory) {
      parents_[id] = level.directory;
      levels.push_back({id, tree_[id].children->begin()});
    } else if (places_[id].number == 0) {
      take(id);
    }
  }
}

Outcome<std::uint32_t> Writer::write_attributes(const Inode& inode) {
  bool begun = false;
  for (const Attribute& attribute : inode.attributes) {
    if (sqfs_get_xattr_prefix_id(attribute.name.c_str()) < 0) {
      continue;  // system.*: squashfs has no place for it
    }
    if (!begun) {
      POSTERN_TRY(check(sqfs_xattr_writer_begin(attributes_.get(), 0), "storing attributes"));
      begun = true;
    }
    POSTERN_TRY(check(sqfs_xattr_writer_add(attributes_.get(), attribute.name.c_str(),
                                            attribute.value.data(), attribute.value.size()),
                      "storing attributes"));
  }
  sqfs_u32 index = kNoAttributes;
  if (begun) {
    POSTERN_TRY(check(sqfs_xattr_writer_end(attributes_.get(), &index), "storing attributes"));
  }
  return index;
}

Outcome<OwnedInode> Writer::make_directory(InodeId id, sqfs_dir_writer_t* directories) {
  const Inode& inode = tree_[id];
  POSTERN_TRY(check(sqfs_dir_writer_begin(directories, 0), "storing a directory"));
  sqfs_u32 subdirectories = 0;
  for (const auto& [name, entry] : *inode.children) {
    const Inode& child = tree_[entry.inode];
    subdirectories += child.kind == Kind::kDirectory ? 1 : 0;
    const Place& place = places_[entry.inode];
    POSTERN_TRY(
        check(sqfs_dir_writer_add_entry(directories, name.c_str(), place.number, place.reference,
                                        static_cast<sqfs_u16>(type_bits(child.kind) | child.mode)),
              "storing a directory"));
  }
  POSTERN_TRY(check(sqfs_dir_writer_end(directories), "storing a directory"));
  const std::uint32_t parent = id == tree_.root() ? static_cast<std::uint32_t>(order_.size() + 1)
                                                  : places_[parents_[id]].number;
  OwnedInode made(sqfs_dir_writer_create_inode(directories, 0, kNoAttributes, parent));
  if (!made) {
    return check(SQFS_ERROR_ALLOC, "storing a directory").error();
  }
  // As stat(2) shows it elsewhere: itself, its name, and ".." of each directory in it.
  if (made->base.type == SQFS_INODE_EXT_DIR) {
    made->data.dir_ext.nlink = subdirectories + 2;
  } else {
    made->data.dir.nlink = subdirectories + 2;
  }
  return made;
}

Outcome<OwnedInode> Writer::make_inode(InodeId id, sqfs_dir_writer_t* directories) {
  const Inode& inode = tree_[id];
  if (inode.kind == Kind::kDirectory) {
    return make_directory(id, directories);
  }
  if (inode.kind == Kind::kFile && inodes_[id] != nullptr) {
    OwnedInode made(std::exchange(inodes_[id], nullptr));
    if (inode.links > 1) {
      POSTERN_TRY(check(sqfs_inode_make_extended(made.get()), "storing a file"));
      made->data.file_ext.nlink = inode.links;
    }
    return made;
  }
  const std::size_t extra = inode.kind == Kind::kSymlink ? inode.target.size() + 1 : 0;
  // SAFETY: libsquashfs frees inodes with free(3) and expects them zeroed.
  OwnedInode made(
      static_cast<sqfs_inode_generic_t*>(std::calloc(1, sizeof(sqfs_inode_generic_t) + extra)));
  if (!made) {
    return check(SQFS_ERROR_ALLOC, "storing a file").error();
  }
  switch (inode.kind) {
    case Kind::kFile:  // empty
      made->base.type = SQFS_INODE_FILE;
      made->data.file.fragment_index = 0xFFFFFFFF;
      made->data.file.fragment_offset = 0xFFFFFFFF;
      if (inode.links > 1) {
        POSTERN_TRY(check(sqfs_inode_make_extended(made.get()), "storing a file"));
        made->data.file_ext.nlink = inode.links;
      }
      break;
    case Kind::kSymlink:
      made->base.type = SQFS_INODE_SLINK;
      made->data.slink.nlink = inode.links;
      made->data.slink.target_size = static_cast<sqfs_u32>(inode.target.size());
      // Its size is stored beside it: it is not terminated.
      std::copy(inode.target.begin(), inode.target.end(), reinterpret_cast<char*>(made->extra));
      break;
    case Kind::kCharDevice:
    case Kind::kBlockDevice:
      made->base.type = inode.kind == Kind::kCharDevice ? SQFS_INODE_CDEV : SQFS_INODE_BDEV;
      made->data.dev.nlink = inode.links;
      // Linux's new_encode_dev(): 12 bits of major number, 20 of minor.
      made->data.dev.devno =
          (inode.minor & 0xff) | ((inode.major & 0xfff) << 8) | ((inode.minor & 0xfff00) << 12);
      break;
    case Kind::kFifo:
      made->base.type = SQFS_INODE_FIFO;
      made->data.ipc.nlink = inode.links;
      break;
    case Kind::kDirectory:
      break;
  }
  return made;
}

Outcome<> Writer::write_inode(InodeId id, sqfs_meta_writer_t* to, sqfs_dir_writer_t* directories) {
  const Inode& inode = tree_[id];
  POSTERN_TRY_ASSIGN(const OwnedInode made, make_inode(id, directories));
  made->base.mode = static_cast<sqfs_u16>(type_bits(inode.kind) | inode.mode);
  made->base.mod_time = clamped_time(inode.mtime);
  made->base.inode_number = places_[id].number;
  const std::uint32_t uid = options_.all_root ? 0 : inode.uid;
  const std::uint32_t gid = options_.all_root ? 0 : inode.gid;
  POSTERN_TRY(
      check(sqfs_id_table_id_to_index(owners_.get(), uid, &made->base.uid_idx), "storing owners"));
  POSTERN_TRY(
      check(sqfs_id_table_id_to_index(owners_.get(), gid, &made->base.gid_idx), "storing owners"));
  POSTERN_TRY_ASSIGN(const std::uint32_t attributes, write_attributes(inode));
  if (attributes != kNoAttributes) {
    POSTERN_TRY(check(sqfs_inode_set_xattr_index(made.get(), attributes), "storing attributes"));
  }
  sqfs_u64 block = 0;
  sqfs_u32 offset = 0;
  sqfs_meta_writer_get_position(to, &block, &offset);
  places_[id].reference = (block << 16) | offset;
  return check(sqfs_meta_writer_write_inode(to, made.get()), "storing an inode");
}

Outcome<> Writer::write_inodes() {
  const Owned<sqfs_meta_writer_t> inode_table(
      sqfs_meta_writer_create(&file_.base, compressor_.get(), 0));
  const Owned<sqfs_meta_writer_t> directory_table(
      sqfs_meta_writer_create(&file_.base, compressor_.get(), SQFS_META_WRITER_KEEP_IN_MEMORY));
  if (!inode_table || !directory_table) {
    return check(SQFS_ERROR_ALLOC, "storing inodes");
  }
  const Owned<sqfs_dir_writer_t> directories(sqfs_dir_writer_create(directory_table.get(), 0));
  if (!directories) {
    return check(SQFS_ERROR_ALLOC, "storing inodes");
  }
  number_inodes();
  super_.inode_table_start = file_.size;
  for (const InodeId id : order_) {
    POSTERN_TRY(check_interrupt());
    POSTERN_TRY(write_inode(id, inode_table.get(), directories.get()));
  }
  POSTERN_TRY(check(sqfs_meta_writer_flush(inode_table.get()), "storing inodes"));
  POSTERN_TRY(check(sqfs_meta_writer_flush(directory_table.get()), "storing directories"));
  super_.root_inode_ref = places_[tree_.root()].reference;
  super_.directory_table_start = file_.size;
  super_.inode_count = static_cast<sqfs_u32>(order_.size());
  return check(sqfs_meta_write_write_to_file(directory_table.get()), "storing directories");
}

Outcome<std::uint64_t> Writer::finish() {
  POSTERN_TRY(check(sqfs_block_processor_finish(processor_.get()), "storing files"));
  POSTERN_TRY(write_inodes());
  POSTERN_TRY(
      check(sqfs_frag_table_write(fragments_.get(), &file_.base, &super_, compressor_.get()),
            "storing fragments"));
  POSTERN_TRY(check(sqfs_id_table_write(owners_.get(), &file_.base, &super_, compressor_.get()),
                    "storing owners"));
  POSTERN_TRY(
      check(sqfs_xattr_writer_flush(attributes_.get(), &file_.base, &super_, compressor_.get()),
            "storing attributes"));
  super_.bytes_used = file_.size;
  POSTERN_TRY(check(sqfs_super_write(&super_, &file_.base), "writing the image"));
  if (const std::uint64_t rest = file_.size % kPadding; rest != 0) {
    const std::vector<char> zeros(kPadding - rest);
    POSTERN_TRY(check(OutputFile::write_at(&file_.base, file_.size, zeros.data(), zeros.size()),
                      "writing the image"));
  }
  return file_.size;
}

}  // namespace

std::optional<Compression> compression_of(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, Compression>, 6> kNames = {{
      {"zstd", Compression::kZstd},
      {"gzip", Compression::kGzip},
      {"xz", Compression::kXz},
      {"lz4", Compression::kLz4},
      {"lzo", Compression::kLzo},
      {"none", Compression::kNone},
  }};
  for (const auto& [known, compression] : kNames) {
    if (known == name) {
      return compression;
    }
  }
  return std::nullopt;
}

Outcome<std::uint64_t> write_squashfs(Tree& tree,
                                      Source& source,
                                      const SquashOptions& options,
                                      int fd,
                                      std::uint64_t offset,
                                      message::Progress& progress) {
  Writer writer(tree, options, fd, offset);
  POSTERN_TRY(writer.open());
  POSTERN_TRY(source.stream(tree, writer, progress));
  POSTERN_TRY(writer.write_literals());
  return writer.finish();
}

}  // namespace postern::imagebuild
