#define FUSE_USE_VERSION 314

#include "frontend/squashfs/server.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <linux/fuse.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <poll.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "frontend/squashfs/crew.h"
#include "frontend/squashfs/reader.h"
#include "frontend/squashfs/share.h"
#include "frontend/squashfs/warm_up.h"

namespace postern::squashfs {
namespace {

// The image never changes: what the kernel knows, it may keep. Seconds; fits the kernel's jiffies.
constexpr double kForever = 1e9;

// A request for data is at most this long (the kernel's limit is 256 pages).
constexpr std::size_t kMaxRequestBytes = 1 << 20;
constexpr std::size_t kMaxPieces = kMaxRequestBytes / kMinBlockBytes + 2;
constexpr std::size_t kMaxListingBytes = kMaxRequestBytes;

// Enough to keep the processors and a disk busy; each costs a buffer of a block.
unsigned default_threads(unsigned processors) noexcept {
  return std::clamp(2 * processors, 4U, 8U);
}

// What a hole reads as. Never written: it stays the kernel's zero page.
alignas(4096) std::byte g_zeros[kMaxBlockBytes];

// What a file is read at next if it is read in order.
struct Sequence {
  std::atomic<std::uint64_t> node = 0;
  std::atomic<std::uint64_t> offset = 0;
};

struct Server final : Crew::Recruiter {
  Server(Image& of, const Options& with, Devices& opened) noexcept
      : image(of),
        options(with),
        devices(opened),
        crew(*this, static_cast<unsigned>(opened.spare.size()) + 1, with.processors),
        warm_up(of, with.program) {}

  bool recruit() noexcept override;
  void start_warm_up() noexcept;
  void start_sharing() noexcept;
  void wait_for_threads() noexcept;

  Image& image;
  const Options& options;
  Devices& devices;
  Crew crew;
  WarmUp warm_up;
  fuse_session* session = nullptr;
  // Told by the starter where it can: it may have been killed before we could ask the kernel.
  const pid_t starter = options.starter != 0 ? options.starter : ::getppid();
  bool sharing = false;  // or it was tried
  bool has_sharer = false;
  pthread_t sharer{};
  bool warming = false;  // or it was tried
  bool has_warmer = false;
  pthread_t warmer{};
  bool answered = false;           // the first request came: there is a mount
  std::vector<pthread_t> threads;  // under the crew's lock
  std::array<Sequence, 64> sequences;
  std::atomic<std::uint32_t> last_fragment = kNoFragment;
};

// One thread's part of the server.
struct Worker {
  Worker(Server& of, int device) noexcept : server(of), fuse(device), reader(of.image) {}

  Server& server;
  const int fuse;  // this thread's /dev/fuse descriptor
  bool listening = true;
  Reader reader;
  std::vector<DataBlock> blocks;
  std::vector<DataBlock> ahead;
  std::vector<BlockCache::Pin> pins;
  std::vector<iovec> iov;
  std::vector<char> listing;
};

thread_local Worker* t_worker = nullptr;  // NOLINT(readability-identifier-naming): of a thread

Worker& worker() noexcept {
  return *t_worker;
}

// --- node numbers: the address of the inode in the image, so that nothing needs to be remembered
// --

constexpr std::uint64_t kFirstNode = FUSE_ROOT_ID + 1;

fuse_ino_t node_of(InodeId id, const Reader& reader) noexcept {
  return id == reader.root() ? fuse_ino_t{FUSE_ROOT_ID} : id + kFirstNode;
}

InodeId inode_of(fuse_ino_t node, const Reader& reader) noexcept {
  return node == FUSE_ROOT_ID ? reader.root() : node - kFirstNode;
}

Read<> fill_attributes(Worker& w, const Inode& inode, struct stat& st) noexcept {
  st = {};
  st.st_ino = inode.number;
  st.st_mode = inode.mode;
  st.st_nlink = std::max(1U, inode.links);
  st.st_size = static_cast<off_t>(inode.size);
  st.st_atim.tv_sec = st.st_mtim.tv_sec = st.st_ctim.tv_sec = inode.mtime;
  if (S_ISREG(inode.mode)) {
    const std::uint64_t stored = inode.size - std::min(inode.size, inode.sparse);
    st.st_blocks = static_cast<blkcnt_t>((stored + 511) / 512);
  } else if (S_ISBLK(inode.mode) || S_ISCHR(inode.mode)) {
    st.st_rdev = inode.device;
  }
  if (w.server.options.owner) {
    st.st_uid = w.server.options.owner->uid;
    st.st_gid = w.server.options.owner->gid;
  } else {
    POSTERN_TRY_ASSIGN(st.st_uid, w.reader.id(inode.uid_index));
    POSTERN_TRY_ASSIGN(st.st_gid, w.reader.id(inode.gid_index));
  }
  return Ok{};
}

Read<> fill_entry(Worker& w, InodeId id, fuse_entry_param& entry) noexcept {
  POSTERN_TRY_ASSIGN(const Inode inode, w.reader.inode(id));
  entry = {};
  entry.ino = node_of(id, w.reader);
  entry.attr_timeout = kForever;
  entry.entry_timeout = kForever;
  return fill_attributes(w, inode, entry.attr);
}

// --- requests ------------------------------------------------------------------------------------

void want(fuse_conn_info* connection, unsigned flags) noexcept {
  connection->want |= flags & connection->capable;
}

void on_init(void* /*data*/, fuse_conn_info* connection) noexcept {
  connection->want = 0;
  want(connection, FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS);
  want(connection, FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO);
  want(connection, FUSE_CAP_CACHE_SYMLINKS | FUSE_CAP_EXPLICIT_INVAL_DATA);
  want(connection, FUSE_CAP_NO_OPEN_SUPPORT | FUSE_CAP_NO_OPENDIR_SUPPORT);
  connection->max_readahead = kMaxRequestBytes;
  connection->max_write = kMaxRequestBytes;  // libfuse derives max_pages, the reads' limit, from it
  connection->max_background = 64;
  connection->congestion_threshold = 48;
}

void on_lookup(fuse_req_t request, fuse_ino_t parent, const char* name) noexcept {
  Worker& w = worker();
  const auto directory = w.reader.inode(inode_of(parent, w.reader));
  if (!directory) {
    fuse_reply_err(request, directory.error().number);
    return;
  }
  Entry found;
  const auto exists = w.reader.find_entry(*directory, name, found);
  if (!exists) {
    fuse_reply_err(request, exists.error().number);
    return;
  }
  fuse_entry_param entry{};
  entry.entry_timeout = kForever;  // also of a name that is not there
  if (*exists) {
    if (const auto filled = fill_entry(w, found.inode, entry); !filled) {
      fuse_reply_err(request, filled.error().number);
      return;
    }
  }
  fuse_reply_entry(request, &entry);
}

void on_forget(fuse_req_t request, fuse_ino_t /*node*/, std::uint64_t /*count*/) noexcept {
  fuse_reply_none(request);
}

void on_forget_multi(fuse_req_t request,
                     std::size_t /*count*/,
                     fuse_forget_data* /*forgets*/) noexcept {
  fuse_reply_none(request);
}

void on_getattr(fuse_req_t request, fuse_ino_t node, fuse_file_info* /*file*/) noexcept {
  Worker& w = worker();
  const auto inode = w.reader.inode(inode_of(node, w.reader));
  struct stat st{};
  const Read<> filled = inode ? fill_attributes(w, *inode, st) : Read<>(inode.error());
  if (filled) {
    fuse_reply_attr(request, &st, kForever);
  } else {
    fuse_reply_err(request, filled.error().number);
  }
}

void on_readlink(fuse_req_t request, fuse_ino_t node) noexcept {
  Worker& w = worker();
  const auto inode = w.reader.inode(inode_of(node, w.reader));
  if (!inode) {
    fuse_reply_err(request, inode.error().number);
    return;
  }
  const auto text = w.reader.link_text(*inode);
  if (!text) {
    fuse_reply_err(request, text.error().number);
    return;
  }
  fuse_reply_readlink(request, text->c_str());
}

// The kernel then opens without asking, and keeps the pages of what it has read.
void on_open(fuse_req_t request, fuse_ino_t /*node*/, fuse_file_info* /*file*/) noexcept {
  fuse_reply_err(request, ENOSYS);
}

// --- listings ------------------------------------------------------------------------------------

// Offsets that the kernel hands back: 1 behind ".", 2 behind "..", 2 + position behind an entry.
constexpr off_t kFirstEntry = 2;

// Appends one entry to `room`; the bytes used, or more than there are.
std::size_t add_entry(fuse_req_t request,
                      bool plus,
                      std::span<char> room,
                      const char* name,
                      const fuse_entry_param& entry,
                      off_t next) noexcept {
  return plus ? fuse_add_direntry_plus(request, room.data(), room.size(), name, &entry, next)
              : fuse_add_direntry(request, room.data(), room.size(), name, &entry.attr, next);
}

Read<std::size_t> list(fuse_req_t request,
                       Worker& w,
                       fuse_ino_t node,
                       std::span<char> room,
                       off_t offset,
                       bool plus) noexcept {
  POSTERN_TRY_ASSIGN(const Inode directory, w.reader.inode(inode_of(node, w.reader)));
  std::size_t used = 0;
  fuse_entry_param dots{};  // node 0: the kernel makes no dentry of it
  dots.attr.st_mode = S_IFDIR;
  for (; offset < kFirstEntry; ++offset) {
    dots.attr.st_ino = offset == 0 ? directory.number : directory.parent;
    const std::size_t size =
        add_entry(request, plus, room.subspan(used), offset == 0 ? "." : "..", dots, offset + 1);
    if (size > room.size() - used) {
      return used;
    }
    used += size;
  }
  if (offset - kFirstEntry > static_cast<off_t>(directory.size)) {
    return used;
  }
  POSTERN_TRY_ASSIGN(
      ListingCursor cursor,
      w.reader.open_listing(directory, static_cast<std::uint32_t>(offset - kFirstEntry)));
  Entry entry;
  for (;;) {
    const ListingCursor before = cursor;
    POSTERN_TRY_ASSIGN(const bool more, w.reader.next_entry(cursor, entry));
    if (!more) {
      break;
    }
    fuse_entry_param param{};
    if (plus) {
      POSTERN_TRY(fill_entry(w, entry.inode, param));
    } else {
      param.attr.st_ino = entry.number;
      param.attr.st_mode = entry.mode;
    }
    entry.name_bytes[entry.name_size] = '\0';
    const std::size_t size = add_entry(request, plus, room.subspan(used), entry.name_bytes.data(),
                                       param, kFirstEntry + entry.next);
    if (size > room.size() - used) {
      w.reader.remember(directory, before);
      break;
    }
    used += size;
  }
  return used;
}

void reply_listing(
    fuse_req_t request, fuse_ino_t node, std::size_t size, off_t offset, bool plus) noexcept {
  Worker& w = worker();
  size = std::min(size, kMaxListingBytes);
  if (w.listing.size() < size) {
    w.listing.resize(size);
  }
  const auto used = list(request, w, node, {w.listing.data(), size}, offset, plus);
  if (used) {
    fuse_reply_buf(request, w.listing.data(), *used);
  } else {
    fuse_reply_err(request, used.error().number);
  }
}

void on_readdir(fuse_req_t request,
                fuse_ino_t node,
                std::size_t size,
                off_t offset,
                fuse_file_info* /*file*/) noexcept {
  reply_listing(request, node, size, offset, false);
}

void on_readdirplus(fuse_req_t request,
                    fuse_ino_t node,
                    std::size_t size,
                    off_t offset,
                    fuse_file_info* /*file*/) noexcept {
  reply_listing(request, node, size, offset, true);
}

// --- data ----------------------------------------------------------------------------------------

// A block this long takes longer to decode than another thread takes to wake up.
constexpr std::uint32_t kSlowBytes = 16 * 1024;

// The decoded block; where it must be decoded first, another thread listens meanwhile. Not during a
// start, which asks for one thing at a time, and would wait for that thread to be made.
Read<BlockCache::Pin> fetch(Worker& w, const DataBlock& block) noexcept {
  const bool slow = (block.key.word & kDataStored) == 0 && block.key.word > kSlowBytes &&
                    !w.server.image.data().contains(block.key);
  if (slow && w.listening && !w.server.warm_up.running()) {
    w.server.crew.begin_slow();
    w.listening = false;
  }
  return w.reader.data(block);
}

void read_ahead(Server& server, const DataBlock& block) noexcept {
  if (!block.hole() && !server.image.data().contains(block.key)) {
    server.crew.read_ahead(block);
  }
}

// Has resting threads decode what will probably be read next: the next blocks of a file that is
// read in order, and the next fragment where the ends of files are.
void look_ahead(Worker& w, const Inode& file, std::uint64_t offset, std::size_t size) noexcept {
  Server& server = w.server;
  const std::uint32_t block_size = server.image.super().block_size;
  Sequence& sequence = server.sequences[file.id * 0x9e3779b97f4a7c15U >> 58];
  const bool in_order = offset != 0 && sequence.node.load(std::memory_order_relaxed) == file.id &&
                        sequence.offset.load(std::memory_order_relaxed) == offset;
  sequence.node.store(file.id, std::memory_order_relaxed);
  sequence.offset.store(offset + size, std::memory_order_relaxed);
  bool next_fragment = false;
  if (file.fragment != kNoFragment && offset + size == file.size) {
    next_fragment = server.last_fragment.exchange(file.fragment, std::memory_order_relaxed) + 1 ==
                    file.fragment;
  }
  if (server.devices.spare.empty() || !server.crew.has_time()) {
    return;
  }
  if (in_order || (offset == 0 && size >= block_size)) {
    w.ahead.clear();
    const std::uint64_t next = (offset + size - 1) / block_size + 1;
    if (w.reader.blocks(file, next, server.options.processors, w.ahead)) {
      for (const DataBlock& block : w.ahead) {
        read_ahead(server, block);
      }
    }
  }
  if (next_fragment) {
    if (const auto block = w.reader.fragment(file.fragment + 1)) {
      read_ahead(server, *block);
    }
  }
}

// Gathers the bytes [offset, offset + size) of a file in w.iov, held by w.pins.
Read<> gather(Worker& w, fuse_ino_t node, std::size_t size, std::uint64_t offset) noexcept {
  POSTERN_TRY_ASSIGN(const Inode file, w.reader.inode(inode_of(node, w.reader)));
  if (!S_ISREG(file.mode)) {
    return Errno{EISDIR};
  }
  if (offset >= file.size) {
    return Ok{};
  }
  std::uint64_t left = std::min<std::uint64_t>(size, file.size - offset);
  const std::uint64_t block_size = w.server.image.super().block_size;
  const std::uint64_t first = offset / block_size;
  const std::uint64_t last = (offset + left - 1) / block_size;
  POSTERN_TRY(w.reader.blocks(file, first, last - first + 1, w.blocks));
  look_ahead(w, file, offset, left);
  std::uint64_t skip = offset % block_size;
  for (const DataBlock& block : w.blocks) {
    if (skip >= block.length) {
      return Errno{EIO};  // more bytes than blocks
    }
    const std::size_t take = std::min<std::uint64_t>(left, block.length - skip);
    if (block.hole()) {
      w.iov.push_back({g_zeros, take});
    } else {
      POSTERN_TRY_ASSIGN(BlockCache::Pin pin, fetch(w, block));
      // SAFETY: writev(2) only reads what an iovec points at; the type has no const.
      auto* from = const_cast<std::byte*>(pin.bytes().data()) + block.offset + skip;
      w.iov.push_back({from, take});
      if (take == block_size) {  // the kernel has it all now, and will not ask again soon
        pin.mark_cold();
      }
      w.pins.push_back(std::move(pin));
    }
    left -= take;
    skip = 0;
  }
  return left == 0 ? Read<>{Ok{}} : Read<>{Errno{EIO}};
}

void on_read(fuse_req_t request,
             fuse_ino_t node,
             std::size_t size,
             off_t offset,
             fuse_file_info* /*file*/) noexcept {
  Worker& w = worker();
  const auto gathered =
      gather(w, node, std::min(size, kMaxRequestBytes), static_cast<std::uint64_t>(offset));
  if (gathered) {
    fuse_reply_iov(request, w.iov.data(), static_cast<int>(w.iov.size()));
  } else {
    fuse_reply_err(request, gathered.error().number);
  }
  w.blocks.clear();
  w.iov.clear();
  w.pins.clear();
}

void on_statfs(fuse_req_t request, fuse_ino_t /*node*/) noexcept {
  const SuperBlock& super = worker().server.image.super();
  struct statvfs st{};
  st.f_bsize = st.f_frsize = super.block_size;
  st.f_blocks = (super.bytes_used + super.block_size - 1) / super.block_size;
  st.f_files = super.inodes;
  st.f_namemax = kMaxNameBytes;
  fuse_reply_statfs(request, &st);
}

// --- attributes ----------------------------------------------------------------------------------

void reply_sized(fuse_req_t request, const Read<std::string>& value, std::size_t room) noexcept {
  if (!value) {
    fuse_reply_err(request, value.error().number);
  } else if (room == 0) {
    fuse_reply_xattr(request, value->size());
  } else if (value->size() > room) {
    fuse_reply_err(request, ERANGE);
  } else {
    fuse_reply_buf(request, value->data(), value->size());
  }
}

void on_getxattr(fuse_req_t request, fuse_ino_t node, const char* name, std::size_t room) noexcept {
  Worker& w = worker();
  if (w.server.image.xattrs().count == 0) {
    fuse_reply_err(request, ENOSYS);  // the kernel then does not ask again
    return;
  }
  const auto inode = w.reader.inode(inode_of(node, w.reader));
  reply_sized(request, inode ? w.reader.xattr(*inode, name) : Read<std::string>{inode.error()},
              room);
}

void on_listxattr(fuse_req_t request, fuse_ino_t node, std::size_t room) noexcept {
  Worker& w = worker();
  if (w.server.image.xattrs().count == 0) {
    fuse_reply_err(request, ENOSYS);
    return;
  }
  const auto inode = w.reader.inode(inode_of(node, w.reader));
  reply_sized(request, inode ? w.reader.xattr_names(*inode) : Read<std::string>{inode.error()},
              room);
}

constexpr fuse_lowlevel_ops kOperations = {
    .init = on_init,
    .lookup = on_lookup,
    .forget = on_forget,
    .getattr = on_getattr,
    .readlink = on_readlink,
    .open = on_open,
    .read = on_read,
    .opendir = on_open,
    .readdir = on_readdir,
    .statfs = on_statfs,
    .getxattr = on_getxattr,
    .listxattr = on_listxattr,
    .forget_multi = on_forget_multi,
    .readdirplus = on_readdirplus,
};

// --- /dev/fuse -----------------------------------------------------------------------------------

// Some 20 ms: within that time a mount is made even on a busy machine, and what it waits for us is
// added to the start.
constexpr unsigned kEagerTries = 100;

// Reads one request. A descriptor of /dev/fuse that is not mounted yet answers EPERM
// (fs/fuse/dev.c, fuse_dev_read): wait for the mount, unless the process that was to make it ended.
ssize_t read_device(int /*fd*/, void* buffer, std::size_t size, void* data) noexcept {
  auto& server = *static_cast<Server*>(data);
  timespec pause{0, 20'000};
  for (unsigned tries = 0;; ++tries) {
    const ssize_t got = ::read(worker().fuse, buffer, size);
    if (got >= 0) {
      server.answered = true;
      return got;
    }
    if (errno != EPERM || server.answered) {
      return got;
    }
    if (::getppid() != server.starter) {
      errno = ENODEV;
      return -1;
    }
    server.start_warm_up();
    ::nanosleep(&pause, nullptr);
    pause.tv_nsec = std::min(pause.tv_nsec * 2, tries < kEagerTries ? 160'000L : 5'000'000L);
  }
}

ssize_t write_device(int /*fd*/, iovec* iov, int count, void* /*data*/) noexcept {
  return ::writev(worker().fuse, iov, count);
}

void drop_log(fuse_log_level /*level*/, const char* /*format*/, va_list /*arguments*/) noexcept {}

// --- threads -------------------------------------------------------------------------------------

// Descriptors that this process must still be able to open once it has its devices.
constexpr unsigned kSpareDescriptors = 6;

// Requests between two looks at whether more are waiting.
constexpr unsigned kBacklogEvery = 64;
constexpr std::size_t kStackBytes = 512 * 1024;

// Answers requests until another thread takes over, or there are no more. Returns errno, or 0.
int listen(Worker& w, fuse_buf& request) noexcept {
  unsigned answered = 0;
  while (fuse_session_exited(w.server.session) == 0) {
    const int size = fuse_session_receive_buf(w.server.session, &request);
    if (size == -EINTR || size == -EAGAIN) {
      continue;
    }
    if (size <= 0) {
      return -size;
    }
    fuse_session_process_buf(w.server.session, &request);
    w.server.start_warm_up();
    if (!w.listening) {
      w.listening = w.server.crew.end_slow();
    } else if (++answered % kBacklogEvery == 0) {
      pollfd waiting{w.fuse, POLLIN, 0};
      w.listening = w.server.crew.report_backlog(::poll(&waiting, 1, 0) == 1);
    }
    if (!w.listening) {
      return 0;
    }
    if (w.server.options.listen_fd >= 0 && !w.server.sharing) {
      w.server.start_sharing();
    }
  }
  return 0;
}

// A thread's life. `w.listening` says how it begins.
int work(Worker& w) noexcept {
  t_worker = &w;
  fuse_buf request{};
  int status = 0;
  for (;;) {
    if (w.listening) {
      status = listen(w, request);
      if (status != 0 || fuse_session_exited(w.server.session) != 0) {
        w.server.crew.stop();
        break;
      }
    }
    DataBlock block;
    const Crew::Task task = w.server.crew.rest(block);
    if (task == Crew::Task::kStop) {
      break;
    }
    w.listening = task == Crew::Task::kListen;
    if (task == Crew::Task::kReadAhead) {
      static_cast<void>(w.reader.data(block));  // an error is met again by who wants the block
      w.server.crew.end_read_ahead();
    }
  }
  ::free(request.mem);
  return status;
}

void* run_thread(void* argument) noexcept {
  const std::unique_ptr<Worker> w(static_cast<Worker*>(argument));
  work(*w);
  return nullptr;
}

bool start_thread(pthread_t& thread, void* (*function)(void*), void* argument) noexcept {
  pthread_attr_t attributes;
  if (::pthread_attr_init(&attributes) != 0) {
    return false;
  }
  ::pthread_attr_setstacksize(&attributes, kStackBytes);
  const int err = ::pthread_create(&thread, &attributes, function, argument);
  ::pthread_attr_destroy(&attributes);
  return err == 0;
}

// Under the crew's lock.
bool Server::recruit() noexcept {
  if (threads.size() == devices.spare.size()) {
    return false;
  }
  // A descriptor of its own spares the threads a lock in the kernel. Where it cannot be had, the
  // first one serves as well.
  int device = devices.spare[threads.size()].get();
  auto first = static_cast<std::uint32_t>(options.fuse_fd);
  if (device < 0 || ::ioctl(device, FUSE_DEV_IOC_CLONE, &first) != 0) {
    device = options.fuse_fd;
  }
  auto* w = new (std::nothrow) Worker(*this, device);
  if (w == nullptr) {
    return false;
  }
  w->listening = false;
  pthread_t thread{};
  if (!start_thread(thread, run_thread, w)) {
    delete w;
    return false;
  }
  threads.push_back(thread);
  return true;
}

// While the mount is being made, or after the first request: never is that kept waiting. Where
// there is one processor alone, it would be taken from the start.
void Server::start_warm_up() noexcept {
  if (std::exchange(warming, true) || options.processors < 2 || devices.spare.empty()) {
    return;
  }
  has_warmer = start_thread(
      warmer,
      [](void* argument) -> void* {
        static_cast<WarmUp*>(argument)->run();
        return nullptr;
      },
      &warm_up);
}

// After the first request, so that the start does not wait for it, and so that nobody joins a mount
// that was never made.
void Server::start_sharing() noexcept {
  sharing = true;
  has_sharer = start_thread(
      sharer,
      [](void* argument) -> void* {
        auto& server = *static_cast<Server*>(argument);
        share_mount(server.devices.sharing, server.options.fuse_fd);
        return nullptr;
      },
      this);
}

// ORDER: after the last request: a thread is in read(2), which fails now, or at work, which ends.
void Server::wait_for_threads() noexcept {
  if (has_sharer) {
    // Until each start has heard what there was to say about the image.
    ::eventfd_write(devices.sharing.end.get(), 1);
    ::pthread_join(sharer, nullptr);
  }
  if (has_warmer) {
    warm_up.stop();
    ::pthread_join(warmer, nullptr);
  }
  for (const pthread_t thread : threads) {
    ::pthread_join(thread, nullptr);
  }
}

Sharing sharing_of(const Options& options) noexcept {
  Sharing sharing;
  ::fcntl(options.listen_fd, F_SETFL, O_NONBLOCK);
  sharing.listening.reset(options.listen_fd);
  sharing.starter.reset(options.starter_fd);
  sharing.token.reset(options.token_fd);
  sharing.user_namespace.reset(options.user_namespace_fd);
  sharing.mount_namespace.reset(options.mount_namespace_fd);
  sharing.end.reset(::eventfd(0, EFD_CLOEXEC));
  sharing.identity = options.identity;
  return sharing;
}

}  // namespace

Devices open_devices(const Options& options) noexcept {
  Devices devices;
  if (options.listen_fd >= 0) {
    devices.sharing = sharing_of(options);
  }
  if (options.spare_fd >= 0) {
    for (unsigned i = 0; i < options.spares; ++i) {
      devices.spare.emplace_back(options.spare_fd + static_cast<int>(i));
    }
    return devices;
  }
  const unsigned most =
      options.threads != 0 ? options.threads : default_threads(options.processors);
  bool full = false;
  for (unsigned i = 1; i < most; ++i) {
    devices.spare.emplace_back(full ? -1 : ::open("/dev/fuse", O_RDWR | O_CLOEXEC));
    full = full || !devices.spare.back().valid();
  }
  if (full) {  // leave room for Landlock and for joiners; those threads share the first descriptor
    unsigned given_back = 0;
    for (std::size_t i = devices.spare.size(); i-- > 0 && given_back < kSpareDescriptors;) {
      given_back += devices.spare[i].valid() ? 1U : 0U;
      devices.spare[i].reset();
    }
  }
  return devices;
}

Outcome<> serve(Image& image, const Options& options, Devices& devices) noexcept {
  Server server(image, options, devices);
  fuse_set_log_func(drop_log);
  char name[] = "postern-squashfs";
  char* argv[] = {name, nullptr};
  fuse_args arguments = FUSE_ARGS_INIT(1, argv);
  server.session = fuse_session_new(&arguments, &kOperations, sizeof kOperations, &server);
  constexpr fuse_custom_io kDevice = {.writev = write_device, .read = read_device};
  if (server.session == nullptr ||
      fuse_session_custom_io(server.session, &kDevice, options.fuse_fd) != 0) {
    return system_problem("preparing the FUSE session", ENOMEM);
  }
  Worker first(server, options.fuse_fd);
  const int status = work(first);
  server.wait_for_threads();
  if (status != 0) {
    return system_problem("reading from /dev/fuse", status);
  }
  return Ok{};
}

}  // namespace postern::squashfs
