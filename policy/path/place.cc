#include "policy/path/place.h"

#include <climits>
#include <cstdlib>

namespace postern::path {

std::vector<std::string> places_of(const std::vector<std::string>& directories) {
  std::vector<std::string> places;
  for (const std::string& directory : directories) {
    std::string resolved(PATH_MAX, '\0');
    if (::realpath(directory.c_str(), resolved.data()) != nullptr) {
      resolved.resize(resolved.find('\0'));
      places.push_back(std::move(resolved));
    }
  }
  return places;
}

}  // namespace postern::path
