"""Files of huge pages: fs/hugetlbfs."""
