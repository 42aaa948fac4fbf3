"""What `archsmith new` writes: templates of a plugin's distribution, and what fills them."""
