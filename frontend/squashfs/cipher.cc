#include "frontend/squashfs/cipher.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#include <sys/mman.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <unistd.h>

namespace postern::squashfs {
namespace {

// --- OpenSSL's memory: one locked arena, since the key schedule is somewhere in it ---------------

// What OpenSSL 3.0 allocates for one cipher and the contexts of kMaxThreads threads, twice over.
constexpr std::size_t kArenaBytes = 2 << 20;
constexpr std::size_t kAlignment = 16;

std::byte* g_arena = nullptr;
std::atomic<std::size_t> g_used = 0;

// Each piece has its size in front. Nothing is reused: OpenSSL frees little, and the process is
// short.
void* arena_malloc(std::size_t size, const char* /*file*/, int /*line*/) noexcept {
  if (size > kArenaBytes) {
    return nullptr;
  }
  const std::size_t whole = (size + 2 * kAlignment - 1) / kAlignment * kAlignment;
  const std::size_t at = g_used.fetch_add(whole);
  if (at + whole > kArenaBytes) {
    return nullptr;
  }
  std::memcpy(g_arena + at, &size, sizeof size);
  return g_arena + at + kAlignment;
}

void arena_free(void* piece, const char* /*file*/, int /*line*/) noexcept {
  if (piece != nullptr) {
    std::size_t size = 0;
    std::memcpy(&size, static_cast<std::byte*>(piece) - kAlignment, sizeof size);
    OPENSSL_cleanse(piece, size);
  }
}

void* arena_realloc(void* piece, std::size_t size, const char* file, int line) noexcept {
  void* moved = arena_malloc(size, file, line);
  if (moved != nullptr && piece != nullptr) {
    std::size_t had = 0;
    std::memcpy(&had, static_cast<std::byte*>(piece) - kAlignment, sizeof had);
    std::memcpy(moved, piece, had < size ? had : size);
    arena_free(piece, file, line);
  }
  return moved;
}

Outcome<> lock_openssl_memory() {
  void* memory =
      ::mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return system_problem("reserving memory for the cipher", errno);
  }
  g_arena = static_cast<std::byte*>(memory);
  ::madvise(memory, kArenaBytes, MADV_DONTDUMP);
  // Pages are locked as they are used. Where RLIMIT_MEMLOCK is smaller than this, as it is on some
  // hosts, the key may reach swap: a reason to encrypt that, not to refuse the image.
  ::mlock2(memory, kArenaBytes, MLOCK_ONFAULT);
  if (CRYPTO_set_mem_functions(arena_malloc, arena_realloc, arena_free) != 1) {
    return Problem{.what = "postern-squashfs: OpenSSL was used before its memory was locked"};
  }
  return Ok{};
}

// --- the key -------------------------------------------------------------------------------------

Problem openssl_problem() {
  return Problem{.what = "postern-squashfs: OpenSSL does not offer AES-256"};
}

// From `at` of a memfd, whatever was read or written through it before; the next bytes of a pipe.
ssize_t read_at(int fd, void* out, std::size_t size, std::size_t at) noexcept {
  const ssize_t got = ::pread(fd, out, size, static_cast<off_t>(at));
  return got < 0 && errno == ESPIPE ? ::read(fd, out, size) : got;
}

// Reads exactly the key.
Outcome<> read_key(int fd, std::span<unsigned char> key) {
  std::size_t got = 0;
  unsigned char more = 0;
  while (got < key.size()) {
    const ssize_t count = read_at(fd, key.data() + got, key.size() - got, got);
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count <= 0) {
      return Problem{.what = "the volume key has " + std::to_string(got) + " bytes, not " +
                             std::to_string(key.size())};
    }
    got += static_cast<std::size_t>(count);
  }
  if (read_at(fd, &more, 1, got) > 0) {
    OPENSSL_cleanse(&more, 1);
    return Problem{.what = "the volume key has more than " + std::to_string(key.size()) + " bytes"};
  }
  return Ok{};
}

constexpr std::size_t kGcmKeyBytes = 32;

// The key, in the arena, so that it is locked. Whoever has it wipes and frees it.
Outcome<unsigned char*> load_key(int fd, std::size_t size) {
  POSTERN_TRY(lock_openssl_memory());
  auto* bytes = static_cast<unsigned char*>(OPENSSL_malloc(size));
  if (bytes == nullptr) {
    return openssl_problem();
  }
  if (auto got = read_key(fd, {bytes, size}); !got) {
    OPENSSL_clear_free(bytes, size);
    return std::move(got).error();
  }
  // No configuration file, no error strings: nothing of the host's, and a third of the time.
  OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_LOAD_CRYPTO_STRINGS, nullptr);
  return bytes;
}

}  // namespace

GcmContext::~GcmContext() {
  EVP_CIPHER_CTX_free(context_);
}

GcmCipher::~GcmCipher() {
  EVP_CIPHER_free(cipher_);
  OPENSSL_clear_free(key_, kGcmKeyBytes);
}

Outcome<std::unique_ptr<GcmCipher>> GcmCipher::make(int key) noexcept {
  POSTERN_TRY_ASSIGN(unsigned char* const bytes, load_key(key, kGcmKeyBytes));
  // Before the sandbox: OpenSSL opens files for the first that is fetched.
  EVP_CIPHER* const cipher = EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr);
  if (cipher == nullptr) {
    OPENSSL_clear_free(bytes, kGcmKeyBytes);
    return openssl_problem();
  }
  return std::unique_ptr<GcmCipher>(new GcmCipher(cipher, bytes));
}

Read<> GcmCipher::open(std::span<const std::byte> nonce,
                       std::span<const std::byte> named,
                       std::span<const std::byte> sealed,
                       std::span<const std::byte> tag,
                       std::span<std::byte> out,
                       GcmContext& state) const noexcept {
  // SAFETY: bytes as the library calls them; it only reads the tag.
  const auto raw = [](std::span<const std::byte> bytes) {
    return reinterpret_cast<const unsigned char*>(bytes.data());
  };
  if (state.context_ == nullptr) {
    EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
    if (context == nullptr ||
        EVP_DecryptInit_ex2(context, cipher_, nullptr, nullptr, nullptr) != 1 ||
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_IVLEN, static_cast<int>(nonce.size()),
                            nullptr) != 1 ||
        EVP_DecryptInit_ex(context, nullptr, nullptr, key_, nullptr) != 1) {
      EVP_CIPHER_CTX_free(context);
      return Errno{ENOMEM};
    }
    state.context_ = context;
  }
  auto* plain = reinterpret_cast<unsigned char*>(out.data());
  int done = 0;
  int last = 0;
  const bool good =
      EVP_DecryptInit_ex(state.context_, nullptr, nullptr, nullptr, raw(nonce)) == 1 &&
      EVP_DecryptUpdate(state.context_, nullptr, &done, raw(named),
                        static_cast<int>(named.size())) == 1 &&
      EVP_DecryptUpdate(state.context_, plain, &done, raw(sealed),
                        static_cast<int>(sealed.size())) == 1 &&
      EVP_CIPHER_CTX_ctrl(state.context_, EVP_CTRL_AEAD_SET_TAG, static_cast<int>(tag.size()),
                          const_cast<unsigned char*>(raw(tag))) == 1 &&
      EVP_DecryptFinal_ex(state.context_, plain + done, &last) == 1;
  if (!good) {
    std::fill(out.begin(), out.end(), std::byte{0});
  }
  return good ? Read<>(Ok{}) : Read<>(Errno{EIO});
}

CipherContext::~CipherContext() {
  EVP_CIPHER_CTX_free(context_);
}

Cipher::~Cipher() {
  EVP_CIPHER_CTX_free(keyed_);
}

Outcome<std::unique_ptr<Cipher>> Cipher::make(int key, const CryptGeometry& geometry) noexcept {
  POSTERN_TRY_ASSIGN(unsigned char* const bytes, load_key(key, kVolumeKeyBytes));
  EVP_CIPHER* cipher = EVP_CIPHER_fetch(nullptr, "AES-256-XTS", nullptr);
  EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
  const unsigned char iv[16] = {};
  const bool ready = cipher != nullptr && context != nullptr &&
                     EVP_DecryptInit_ex2(context, cipher, bytes, iv, nullptr) == 1;
  OPENSSL_clear_free(bytes, kVolumeKeyBytes);
  EVP_CIPHER_free(cipher);
  if (!ready) {
    EVP_CIPHER_CTX_free(context);
    return openssl_problem();
  }
  return std::unique_ptr<Cipher>(new Cipher(geometry, context));
}

Read<> Cipher::decrypt(std::uint64_t offset,
                       std::span<std::byte> sectors,
                       CipherContext& state) const noexcept {
  if (state.context_ == nullptr) {
    EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
    if (context == nullptr || EVP_CIPHER_CTX_copy(context, keyed_) != 1) {
      EVP_CIPHER_CTX_free(context);
      return Errno{ENOMEM};
    }
    state.context_ = context;
  }
  std::uint64_t number = geometry_.iv_offset + offset / 512;
  for (std::size_t at = 0; at < sectors.size(); at += geometry_.sector) {
    std::array<unsigned char, 16> tweak{};
    std::memcpy(tweak.data(), &number, sizeof number);  // plain64: little-endian
    // SAFETY: bytes as the library calls them.
    auto* data = reinterpret_cast<unsigned char*>(sectors.data() + at);
    int done = 0;
    if (EVP_DecryptInit_ex2(state.context_, nullptr, nullptr, tweak.data(), nullptr) != 1 ||
        EVP_DecryptUpdate(state.context_, data, &done, data, static_cast<int>(geometry_.sector)) !=
            1) {
      return Errno{EIO};
    }
    number += geometry_.sector / 512;
  }
  return Ok{};
}

}  // namespace postern::squashfs
