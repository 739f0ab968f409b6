// The client of libraries of SIF images (the Library API of Sylabs and Apptainer).
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "frontend/net/http.h"
#include "frontend/net/reference.h"

namespace postern::net {

struct LibraryImage {
  std::string id;
  std::string hash;  // "sha256.HEX", checked for its form
  std::uint64_t size = 0;
  bool uploaded = false;
};

// One library. The token goes to its own scheme, host and port only.
class Library {
 public:
  Library(Client& client, std::string base, std::string token)
      : client_(&client), base_(std::move(base)), token_(std::move(token)) {}

  [[nodiscard]] const std::string& base() const noexcept { return base_; }

  // Nothing where there is no such image.
  Outcome<std::optional<LibraryImage>> image(const std::string& path,
                                             const std::string& tag,
                                             const std::string& architecture);
  // The request for the image's bytes; the caller gives it a sink.
  [[nodiscard]] Request file_request(const std::string& path,
                                     const std::string& tag,
                                     const std::string& architecture) const;
  Outcome<> remove(const std::string& path,
                   const std::string& tag,
                   const std::string& architecture,
                   unsigned seconds);

  struct Upload {
    std::string path;  // entity/collection/container
    std::vector<std::string> tags;
    std::string description;
    std::string architecture;
    std::string sha256;  // hex
    std::string md5;     // hex
    int file = -1;
    std::uint64_t bytes = 0;
  };

  struct Uploaded {
    std::uint64_t quota_total = 0;
    std::uint64_t quota_usage = 0;
    bool quota = false;
    std::string container_url;
    bool was_there = false;
  };

  Outcome<Uploaded> upload(const Upload& upload);

  struct Found {
    std::string name;  // "library://E/C/N:tag1,tag2"
    std::string description;
    std::vector<std::string> fingerprints;
  };

  Outcome<std::vector<Found>> search(const std::string& text,
                                     const std::string& architecture,
                                     bool only_signed);

 private:
  [[nodiscard]] Request request(std::string method, const std::string& path) const;
  Outcome<std::string> find_or_create(const std::string& find,
                                      const std::string& create,
                                      const std::string& document);
  Outcome<> send_file(const std::string& image, const Upload& upload, Uploaded& out);
  Outcome<bool> send_parts(const std::string& image, const Upload& upload, Uploaded& out);
  Outcome<> send_part(const std::string& image,
                      const Upload& upload,
                      const std::string& id,
                      std::uint64_t number,
                      std::uint64_t part_size,
                      bool signed_parts,
                      std::string& tokens);

  Client* client_;
  std::string base_;
  std::string token_;
};

// Pure. The image object of a library's answer. Error: no such object, or a hash that is none.
Outcome<LibraryImage> parse_library_image(std::string_view body);

}  // namespace postern::net
